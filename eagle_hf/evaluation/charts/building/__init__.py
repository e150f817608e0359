"""From measured numbers to charts: one function a chart, in the order of the page."""

from collections.abc import Callable

from eagle_hf.evaluation.charts.building.acceptance import alpha_by_depth, trees
from eagle_hf.evaluation.charts.building.methods import round_time, speed_by_category
from eagle_hf.evaluation.charts.building.methods import speed_by_method as speed_by_method
from eagle_hf.evaluation.charts.building.predictions import (
    predicted_measured,
    simulated_machines,
    simulated_plan,
)
from eagle_hf.evaluation.charts.building.serving import (
    served_categories,
    throughput,
    time_per_token,
    time_to_first_token,
)
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
    served_categories,
    alpha_by_depth,
    trees,
    round_time,
    predicted_measured,
    tau_by_step,
    simulated_plan,
    simulated_machines,
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
