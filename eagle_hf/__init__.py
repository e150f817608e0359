"""EAGLE-3 draft heads for Hugging Face causal LMs: train them, decode losslessly with them, ship them.

Importing the package teaches `target.generate(assistant_model=head)` about draft heads.
"""

from eagle_hf.compat import warn_untested
from eagle_hf.data.capture import capture_features
from eagle_hf.data.conversations import load_conversations
from eagle_hf.data.features import Features
from eagle_hf.data.magpie import magpie_prompts
from eagle_hf.data.manifest import write_run
from eagle_hf.data.masking import eos_token_ids, tokenize_conversations
from eagle_hf.data.prompts import (
    bundled_prompts,
    evenly_spread,
    gather_prompts,
    read_prompts,
    write_prompts,
)
from eagle_hf.data.responses import write_responses
from eagle_hf.data.template import template_sha256
from eagle_hf.decoding.dispatch import register
from eagle_hf.measuring import automatic
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.decoding.assistants import SelfSpeculation, WindowedDraft
from eagle_hf.head.configuration import Eagle3Config, TreeConfig
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.hub.publish import push_to_hub
from eagle_hf.planning.plan import Plan
from eagle_hf.target import load_target
from eagle_hf.target.dtypes import default_device
from eagle_hf.training.arguments import Eagle3TrainingArguments
from eagle_hf.training.checkpoints import last_checkpoint
from eagle_hf.training.merging import merge_adapter
from eagle_hf.training.sharding import shard_target
from eagle_hf.training.start import new_head
from eagle_hf.training.trainer import Eagle3Trainer

__version__ = "0.1.0"
__all__ = [
    "DecodingStats",
    "Eagle3Config",
    "Eagle3DraftHead",
    "Eagle3Trainer",
    "Eagle3TrainingArguments",
    "Features",
    "Plan",
    "SelfSpeculation",
    "TreeConfig",
    "WindowedDraft",
    "bundled_prompts",
    "capture_features",
    "default_device",
    "eos_token_ids",
    "evenly_spread",
    "gather_prompts",
    "last_checkpoint",
    "load_conversations",
    "load_target",
    "magpie_prompts",
    "merge_adapter",
    "new_head",
    "read_prompts",
    "shard_target",
    "template_sha256",
    "tokenize_conversations",
    "write_prompts",
    "write_responses",
    "write_run",
]

warn_untested()
register(automatic.decode)
Eagle3DraftHead.push_to_hub = push_to_hub  # set here: the head's floor must not import the Hub's
