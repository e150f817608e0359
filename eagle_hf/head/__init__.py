"""The draft head."""

from eagle_hf.head.configuration import Eagle3Config, TreeConfig
from eagle_hf.head.modeling import Eagle3DraftHead

__all__ = [
    "Eagle3Config",
    "Eagle3DraftHead",
    "TreeConfig",
]
