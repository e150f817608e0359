"""From measured numbers to charts: one function a chart, in the order of the page."""

from collections.abc import Callable

from eagle_hf.evaluation.charts.building.acceptance import alpha_by_depth, trees
from eagle_hf.evaluation.charts.building.batches import speed_by_batch
from eagle_hf.evaluation.charts.building.drafted import drafted_by_length
from eagle_hf.evaluation.charts.building.limits import memory_or_arithmetic
from eagle_hf.evaluation.charts.building.methods import round_time, speed_by_category
from eagle_hf.evaluation.charts.building.methods import speed_by_method as speed_by_method
from eagle_hf.evaluation.charts.building.pairs import drafters
from eagle_hf.evaluation.charts.building.predictions import predicted_measured
from eagle_hf.evaluation.charts.building.serving import (
    generation_time,
    served_categories,
    throughput,
    time_per_token,
    time_to_first_token,
)
from eagle_hf.evaluation.charts.building.simulated import simulated_machines, simulated_plan
from eagle_hf.evaluation.charts.building.training import tau_by_step
from eagle_hf.evaluation.charts.chart import Absent, Chart
from eagle_hf.evaluation.charts.sources import Sources

Builder = Callable[[Sources], list[Chart | Absent]]
BUILDERS: tuple[Builder, ...] = (
    speed_by_method,
    speed_by_category,
    time_per_token,
    throughput,
    time_to_first_token,
    generation_time,
    served_categories,
    speed_by_batch,
    drafters,
    alpha_by_depth,
    trees,
    round_time,
    predicted_measured,
    tau_by_step,
    simulated_plan,
    simulated_machines,
    drafted_by_length,
    memory_or_arithmetic,
)


def build_charts(sources: Sources) -> tuple[list[Chart], list[Absent]]:
    """All charts that the files have numbers for, and those that they have none for.

    Args:
        sources: what was read.

    Returns:
        Charts in the order of the page, and absent ones.
    """
    charts = []
    absent = []
    for build in BUILDERS:
        for built in build(sources):
            if isinstance(built, Chart):
                charts.append(built)
            else:
                absent.append(built)
    return charts, absent
