"""Any methods of decoding side by side: by name, in turn, kept, as rows."""

from eagle_hf.evaluation.side_by_side.contest import Contest
from eagle_hf.evaluation.side_by_side.kept import GroupAnswer, KeptAnswers, Setting
from eagle_hf.evaluation.side_by_side.methods import (
    PLAIN,
    Method,
    OpenMethod,
    open_method,
    open_methods,
)
from eagle_hf.evaluation.side_by_side.pairing import Pair, judge, pair_table
from eagle_hf.evaluation.side_by_side.rows import summaries, table

__all__ = [
    "PLAIN",
    "Contest",
    "GroupAnswer",
    "KeptAnswers",
    "Method",
    "OpenMethod",
    "Pair",
    "Setting",
    "judge",
    "open_method",
    "open_methods",
    "pair_table",
    "summaries",
    "table",
]
