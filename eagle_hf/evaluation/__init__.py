"""Measuring a head: prompts by category, speed in this process, equality, and the report."""

from eagle_hf.evaluation.arguments import (
    AnswerArguments,
    EvaluationArguments,
    SettingArguments,
    TargetArguments,
    VocabularyArguments,
)
from eagle_hf.evaluation.asked import facts_of, load_asked, prompts_fingerprint
from eagle_hf.evaluation.equality import Difference, first_difference
from eagle_hf.evaluation.metrics import (
    MeasuredSetting,
    Metrics,
    measured_setting,
    read_metrics,
    rename_fingerprint,
    write_metrics,
)
from eagle_hf.evaluation.models import (
    open_draft_model,
    open_drafter,
    open_head,
    open_set_target,
    open_target,
)
from eagle_hf.evaluation.offline import (
    Answer,
    Summary,
    by_category,
    collect_stats,
    evaluate,
    sampling_at,
    summarise,
)
from eagle_hf.evaluation.report import (
    draw_acceptance,
    markdown_table,
    read_acceptance,
    screen_table,
    write_acceptance,
    write_report,
)
from eagle_hf.evaluation.scaling import Scaling, draw_scaling, fit_scaling
from eagle_hf.evaluation.simulation import (
    RooflineArguments,
    SimulatedCell,
    simulate,
    simulated_shape,
)
from eagle_hf.evaluation.simulation_report import (
    draw_simulation,
    simulation_table,
    write_simulation,
)
from eagle_hf.provenance import dtype_name, machine, weights_fingerprint

__all__ = [
    "Answer",
    "AnswerArguments",
    "Difference",
    "EvaluationArguments",
    "MeasuredSetting",
    "Metrics",
    "RooflineArguments",
    "Scaling",
    "SettingArguments",
    "TargetArguments",
    "VocabularyArguments",
    "SimulatedCell",
    "Summary",
    "by_category",
    "collect_stats",
    "draw_acceptance",
    "draw_scaling",
    "draw_simulation",
    "dtype_name",
    "evaluate",
    "facts_of",
    "first_difference",
    "fit_scaling",
    "load_asked",
    "machine",
    "markdown_table",
    "measured_setting",
    "open_draft_model",
    "open_drafter",
    "open_head",
    "open_set_target",
    "open_target",
    "prompts_fingerprint",
    "read_acceptance",
    "read_metrics",
    "rename_fingerprint",
    "sampling_at",
    "screen_table",
    "simulate",
    "simulated_shape",
    "simulation_table",
    "summarise",
    "weights_fingerprint",
    "write_acceptance",
    "write_metrics",
    "write_report",
    "write_simulation",
]
