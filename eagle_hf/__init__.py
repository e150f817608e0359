"""EAGLE-3 draft heads for Hugging Face causal LMs: train them, decode losslessly with them, ship them.

Importing the package teaches `target.generate(assistant_model=head)` about draft heads.
"""

from eagle_hf.decoding.dispatch import register
from eagle_hf.head.configuration import Eagle3Config, TreeConfig
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.target import load_target

__version__ = "0.1.0"
__all__ = ["Eagle3Config", "Eagle3DraftHead", "TreeConfig", "load_target"]

register()
