"""Measuring a drafter on a machine: seconds of forwards, traces of proposals, and plans."""

from eagle_hf.decoding.checks import check_target
from eagle_hf.decoding.tree_attention import tree_attention
from eagle_hf.measuring.acceptance import measure_acceptance, save_acceptance
from eagle_hf.measuring.costs import fingerprint, measure_costs
from eagle_hf.measuring.intervals import (
    median_interval,
    ratio_interval,
    tau_difference,
    tau_interval,
)
from eagle_hf.measuring.plans import TREES, held_out_acceptance, make_plan, measure_plan
from eagle_hf.measuring.replay import replay
from eagle_hf.measuring.runs import PrefilledPrompt, TimedRun, finish
from eagle_hf.measuring.speeds import HEADER, Speed, draw_speeds, measure_cell, save_speeds
from eagle_hf.measuring.timing import Turns, noise_cache, target_forward, timed
from eagle_hf.measuring.traces import Trace, record

__all__ = [
    "HEADER",
    "PrefilledPrompt",
    "Speed",
    "TREES",
    "TimedRun",
    "Trace",
    "Turns",
    "check_target",
    "draw_speeds",
    "fingerprint",
    "finish",
    "held_out_acceptance",
    "make_plan",
    "measure_acceptance",
    "measure_cell",
    "measure_costs",
    "measure_plan",
    "median_interval",
    "noise_cache",
    "ratio_interval",
    "record",
    "replay",
    "save_acceptance",
    "save_speeds",
    "target_forward",
    "tau_difference",
    "tau_interval",
    "timed",
    "tree_attention",
]
