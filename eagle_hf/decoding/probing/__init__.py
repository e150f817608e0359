"""Whether a model reads trees as it reads text: tried, once for each class and config.

A forward may take positions and a mask and do something of its own with them: count a window by
slot, add a bias, ignore the mask. Its signature does not tell. So a tiny random model of the same
class and config reads trees through the doors that decoding uses, and plain `generate` is forced
along each of their branches. The logits must be the same.
"""

from eagle_hf.decoding.probing.trials import (
    check_drafting_trees,
    check_giving_states,
    check_reading_trees,
    wrong_in_reading_chunks,
    wrong_in_turning_sinks,
)

__all__ = [
    "check_drafting_trees",
    "check_giving_states",
    "check_reading_trees",
    "wrong_in_reading_chunks",
    "wrong_in_turning_sinks",
]
