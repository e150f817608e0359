"""How charts are drawn: every form holds its numbers and draws them on a canvas."""

from eagle_hf.evaluation.charts.forms.lines import PLAIN_SPEED, Lines
from eagle_hf.evaluation.charts.forms.rows import Rows
from eagle_hf.evaluation.charts.forms.scatter import Scatter
from eagle_hf.evaluation.charts.forms.stacks import Stacks
from eagle_hf.evaluation.charts.forms.tree import Node, Tree

__all__ = ["PLAIN_SPEED", "Lines", "Node", "Rows", "Scatter", "Stacks", "Tree"]
