"""EAGLE-3 draft heads for Hugging Face causal LMs: train them, decode losslessly, ship them.

Importing the package teaches `target.generate(assistant_model=head)` about draft heads.

The names here are what a program needs that decodes or trains. Everything else is public in the
sub-packages: `eagle_hf.data`, `eagle_hf.training`, `eagle_hf.evaluation`, `eagle_hf.measuring`,
`eagle_hf.hub`, `eagle_hf.head` and `eagle_hf.target`.
"""

from eagle_hf.contract import warn_untested
from eagle_hf.decoding.assistants import SelfSpeculation, WindowedDraft
from eagle_hf.decoding.compiling import compile_target
from eagle_hf.decoding.dispatch import register
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.hub.publish import push_to_hub
from eagle_hf.measuring import automatic
from eagle_hf.planning.plan import Plan
from eagle_hf.rollouts import SpeculativeRollouts
from eagle_hf.target import load_target
from eagle_hf.training import Eagle3Trainer, Eagle3TrainingArguments, new_head

__version__ = "0.1.0"
__all__ = [
    "DecodingStats",
    "Eagle3Config",
    "Eagle3DraftHead",
    "Eagle3Trainer",
    "Eagle3TrainingArguments",
    "Plan",
    "SelfSpeculation",
    "SpeculativeRollouts",
    "TreeConfig",
    "WindowedDraft",
    "__version__",
    "compile_target",
    "load_target",
    "new_head",
]

warn_untested()
register(automatic.decode)
# set here: the floor of the head must not import that of the Hub
Eagle3DraftHead.push_to_hub = push_to_hub
