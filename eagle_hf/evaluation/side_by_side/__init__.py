"""Any methods of decoding side by side: by name, in turn, kept, as rows."""

from eagle_hf.evaluation.side_by_side.contest import Contest
from eagle_hf.evaluation.side_by_side.kept import GroupAnswer, KeptAnswers, Setting
from eagle_hf.evaluation.side_by_side.methods import OpenMethod, open_method, open_methods
from eagle_hf.evaluation.side_by_side.names import LOOP, PLAIN, Method, named_methods
from eagle_hf.evaluation.side_by_side.pairing import Pair, judge, pair_table
from eagle_hf.evaluation.side_by_side.predicted import predicted_speeds
from eagle_hf.evaluation.side_by_side.rows import DEFINITIONS, overhead_of, summaries
from eagle_hf.evaluation.side_by_side.served import ServedMethod
from eagle_hf.evaluation.side_by_side.tables import table, tier_table

__all__ = [
    "DEFINITIONS",
    "LOOP",
    "PLAIN",
    "Contest",
    "GroupAnswer",
    "KeptAnswers",
    "Method",
    "OpenMethod",
    "Pair",
    "ServedMethod",
    "Setting",
    "judge",
    "named_methods",
    "open_method",
    "open_methods",
    "overhead_of",
    "pair_table",
    "predicted_speeds",
    "summaries",
    "table",
    "tier_table",
]
