"""How much to speculate: measured costs, the best tree for them, and simulated machines."""

from eagle_hf.planning.sequoia import acceptance_vector, best_tree, best_tree_for
from eagle_hf.planning.static_tree import StaticTree, draw

__all__ = [
    "StaticTree",
    "acceptance_vector",
    "best_tree",
    "best_tree_for",
    "draw",
]
