"""The draft head: configuration, module, vocabulary map and on-disk layout."""

from eagle_hf.head.acceptance import Acceptance
from eagle_hf.head.configuration import Eagle3Config, default_aux_layer_ids
from eagle_hf.head.dialects import DIALECTS
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.head.vocabulary import choose_draft_vocabulary, coverage

__all__ = [
    "DIALECTS",
    "Acceptance",
    "Eagle3Config",
    "Eagle3DraftHead",
    "TreeConfig",
    "choose_draft_vocabulary",
    "coverage",
    "default_aux_layer_ids",
]
