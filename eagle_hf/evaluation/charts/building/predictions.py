"""The chart of what was predicted against what was measured."""

import statistics
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
from eagle_hf.evaluation.charts.forms import Scatter
from eagle_hf.evaluation.charts.measured import ALL
from eagle_hf.evaluation.charts.sources import Source, Sources


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
