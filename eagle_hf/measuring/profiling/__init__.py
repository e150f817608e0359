"""Where a round's time goes, operator by operator."""

from eagle_hf.measuring.profiling.page import profile_page
from eagle_hf.measuring.profiling.report import profile_metrics, profile_text
from eagle_hf.measuring.profiling.rounds import RoundProfile, profile_rounds

__all__ = [
    "RoundProfile",
    "profile_metrics",
    "profile_page",
    "profile_rounds",
    "profile_text",
]
