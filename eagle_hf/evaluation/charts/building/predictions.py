"""Charts of what was predicted: against what was measured, and simulated where nothing was."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from eagle_hf.evaluation.charts.building.methods import key_of, method_rows
from eagle_hf.evaluation.charts.building.naming import drawn_series, names_apart
from eagle_hf.evaluation.charts.chart import (
    Absent,
    Chart,
    Interval,
    Point,
    Series,
    Table,
    show,
    show_interval,
)
from eagle_hf.evaluation.charts.forms import Lines, Scatter
from eagle_hf.evaluation.charts.measured import ALL, PlanCosts
from eagle_hf.evaluation.charts.simulations import SimulatedGain
from eagle_hf.evaluation.charts.sources import Source, Sources
from eagle_hf.planning.sequoia import best_tree_for

NODES = 63
DEPTH = 6


@dataclass(frozen=True)
class Prediction:
    """A speed over plain decoding, predicted and measured.

    Attributes:
        series: in which it is drawn.
        what: was decoded, and where.
        predicted, measured: the speed.
        interval: of the measured one.
        source: its file.
    """

    series: str
    what: str
    predicted: float
    measured: float
    interval: Interval | None
    source: Source

    @property
    def reached(self) -> float:
        """What was measured, as a share of what was predicted."""
        return self.measured / self.predicted

    @property
    def point(self) -> Point:
        """As it is drawn."""
        tip = f"{self.series}, {self.what}\n"
        tip += f"predicted {show(self.predicted)}, measured {show(self.measured)}"
        if self.interval is not None:
            tip += f"\n95 %: {show_interval(self.interval)}"
        return Point(self.predicted, self.measured, tip, self.interval)


def predicted_measured(sources: Sources) -> list[Chart | Absent]:
    """Speed over plain decoding, measured over predicted."""
    title = "Predicted against measured"
    found = [*_of_plans(sources), *_of_pairs(sources), *_of_methods(sources)]
    if not found:
        needs = "what `eagle-hf plan` or `eagle-hf pair` write"
        return [Absent(title, needs)]
    series = []
    for name in dict.fromkeys(one.series for one in found):
        points = tuple(one.point for one in found if one.series == name)
        series.append(Series(name, points))
    kept, said = drawn_series(series)
    form = Scatter("predicted, times plain decoding", "measured", kept)
    lines = []
    for one in found:
        numbers = (show(one.predicted), show(one.measured), show_interval(one.interval))
        lines.append((one.series, one.what, *numbers, show(one.reached)))
    columns = ("method", "where", "predicted", "measured", "95 %", "measured / predicted")
    table = Table(columns, tuple(lines), texts=2)
    middle = statistics.median(one.reached for one in found)
    reached = f"{middle:.0%} of what was predicted"
    counted = f"The only measurement reaches {reached}"
    if len(found) > 1:
        counted = f"Half of the {len(found)} measurements reach {reached} or more"
    caption = f"{counted}; on the line both are equal.{said}"
    is_simulated = any(one.source.is_simulated for one in found)
    return [Chart("predicted-measured", title, caption, form, table, is_simulated)]


def _of_plans(sources: Sources) -> list[Prediction]:
    """What a plan's cells predicted and measured."""
    found: list[Prediction] = []
    for source in sources.of("speeds"):
        for row in source.data:
            where = f"batch {row.batch}, {row.length:,} tokens"
            numbers = (row.predicted, row.measured, row.interval)
            found.append(Prediction(row.method, where, *numbers, source))
    return found


def _of_pairs(sources: Sources) -> list[Prediction]:
    """What pairs predicted and measured."""
    found: list[Prediction] = []
    for source in sources.of("pairs"):
        for row in source.data:
            what = f"{row.drafter}: {row.verdict}"
            numbers = (row.predicted, row.measured, row.interval)
            found.append(Prediction("pairs", what, *numbers, source))
    return found


def _of_methods(sources: Sources) -> list[Prediction]:
    """What methods had predicted for them."""
    rows = []
    for entry in method_rows(sources):
        row = entry[1]
        if row.predicted and row.over_loop is not None and row.category == ALL:
            rows.append(entry)
    names = names_apart([key_of(entry) for entry in rows])
    found: list[Prediction] = []
    for entry in rows:
        row = entry[1]
        assert row.predicted is not None
        assert row.over_loop is not None
        what = names[key_of(entry)]
        numbers = (row.predicted, row.over_loop, row.over_loop_interval)
        found.append(Prediction("methods", what, *numbers, entry[0]))
    return found


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
    most = min(NODES, costs.tokens[-1] - 1)
    series = []
    lines = []
    for length in costs.lengths:
        points = []
        for batch in costs.batches:
            cell = costs.at(batch, length)
            tree, rate = best_tree_for(plan.shares, cell.rounds, cell.draft_seconds, most, DEPTH)
            speed = float(rate * cell.target[0])
            shape = f"{tree.size} nodes, depth {tree.depth}" if tree.size else "plain decoding"
            tip = f"batch {batch}, {length:,} tokens\n{show(speed)} times plain decoding\n{shape}"
            points.append(Point(batch, speed, tip))
            forward = f"{1000 * cell.target[0]:.1f}"
            lines.append((shape, str(batch), f"{length:,}", forward, show(speed)))
        series.append(Series(f"behind {length:,} tokens", tuple(points)))
    kept, said = drawn_series(series)
    form = Lines("batch", "times plain decoding", kept, is_log=True)
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
        for machine in dict.fromkeys(gain.machine for gain in source.data):
            own = [gain for gain in source.data if gain.machine == machine]
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
    form = Lines("batch", "times plain decoding", kept, is_log=True)
    model = source.content.get("model", "the model")
    caption = (
        f"{model} on {machine}, by a roofline; acceptance is assumed. A dash in the table: it does "
        f"not fit the memory.{said}"
    )
    columns = ("drafts", "length", "batch", "speed")
    name = f"roofline-{index + 1}"
    title = f"Speed on a machine not at hand: {machine}"
    return Chart(name, title, caption, form, Table(columns, tuple(lines), 2), True)
