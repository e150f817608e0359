"""Charts of speeds that were computed: by a plan for this machine, by a roofline for others."""

from collections.abc import Sequence

from eagle_hf.evaluation.charts.building.naming import drawn_series
from eagle_hf.evaluation.charts.chart import Absent, Chart, Point, Series, Table, show
from eagle_hf.evaluation.charts.drafters import PlanCosts
from eagle_hf.evaluation.charts.forms import PLAIN_SPEED, Lines
from eagle_hf.evaluation.charts.simulations import SimulatedGain
from eagle_hf.evaluation.charts.sources import Source, Sources


def simulated_plan(sources: Sources) -> list[Chart | Absent]:
    """A plan's best fixed trees, by batch and length: simulated from what was measured."""
    charts: list[Chart | Absent] = []
    plans = sources.of("plan")
    for index, source in enumerate(plans):
        name = "plan" if index == 0 else f"plan-{index + 1}"
        title = "Speed by batch, by the plan"
        if len(plans) > 1:
            title += f": {source.label}"
        charts.append(_plan_chart(name, title, source))
    return charts


def _plan_chart(name: str, title: str, source: Source) -> Chart:
    """One plan: a line a length."""
    plan: PlanCosts = source.data
    costs = plan.costs
    series = []
    lines = []
    for length in costs.lengths:
        points = []
        for batch in costs.batches:
            tree, speed = plan.best_tree(batch, length)
            shape = f"{tree.size} nodes, depth {tree.depth}" if tree.size else "plain decoding"
            tip = f"batch {batch}, {length:,} tokens\n{show(speed)} times plain decoding\n{shape}"
            points.append(Point(batch, speed, tip))
            forward = f"{1000 * costs.at(batch, length).target[0]:.1f}"
            lines.append((shape, str(batch), f"{length:,}", forward, show(speed)))
        series.append(Series(f"behind {length:,} tokens", tuple(points)))
    kept, said = drawn_series(series)
    form = Lines("batch", "times plain decoding", kept, is_log=True, reference=PLAIN_SPEED)
    columns = ("best fixed tree", "batch", "length", "ms a token", "speed")
    caption = (
        "What the best fixed tree of each cell would gain, from forwards timed on this machine and "
        f"measured acceptance.{said}"
    )
    return Chart(name, title, caption, form, Table(columns, tuple(lines)), True)


def simulated_machines(sources: Sources) -> list[Chart | Absent]:
    """What speculation would gain on machines that are not at hand: the roofline."""
    charts: list[Chart | Absent] = []
    for source in sources.of("simulation"):
        for machine in source.data.machines:
            own = [gain for gain in source.data.gains if gain.machine == machine]
            charts.append(_machine_chart(source, machine, own, len(charts)))
    return charts


def _machine_chart(
    source: Source, machine: str, gains: Sequence[SimulatedGain], index: int
) -> Chart:
    """One machine: a line a way of drafting and length."""
    by_line: dict[tuple[str, str], list[SimulatedGain]] = {}
    for gain in gains:
        by_line.setdefault((gain.way, f"{gain.length:,} tokens"), []).append(gain)
    series = []
    lines = []
    for (way, length), own in by_line.items():
        points = []
        for gain in own:
            lines.append((way, length, str(gain.batch), show(gain.gain)))
            if gain.gain is not None:
                tip = f"{way}, {length}, batch {gain.batch}\n{show(gain.gain)} times plain decoding"
                points.append(Point(gain.batch, gain.gain, tip))
        if points:
            series.append(Series(f"{way}, {length}", tuple(points)))
    kept, said = drawn_series(series)
    form = Lines("batch", "times plain decoding", kept, is_log=True, reference=PLAIN_SPEED)
    model = source.content.get("model", "the model")
    caption = (
        f"{model} on {machine}, by a roofline; acceptance is assumed. A dash in the table: it does "
        f"not fit the memory.{said}"
    )
    columns = ("drafts", "length", "batch", "speed")
    name = f"roofline-{index + 1}"
    title = f"Speed on a machine not at hand: {machine}"
    return Chart(name, title, caption, form, Table(columns, tuple(lines), 2), True)
