"""The chart of what drafts gain by batch and by the length of the context, measured."""

from dataclasses import dataclass

from eagle_hf.evaluation.charts.building.methods import method_rows
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
from eagle_hf.evaluation.charts.forms import PLAIN_SPEED, Lines
from eagle_hf.evaluation.charts.measured import ALL, PLAIN
from eagle_hf.evaluation.charts.sources import Source, Sources

TITLE = "Speed by batch and length"
LOOP = "this package's loop without drafts"
GENERATE = "plain generate"


@dataclass(frozen=True)
class BatchSpeed:
    """A speed at one batch size.

    Attributes:
        key: names of its line: the method, then what may differ beside it.
        batch: rows decoded at once.
        speed, interval: over `base`.
        tau: tokens a round.
        base: what it is compared with.
        source: its file.
    """

    key: tuple[str, ...]
    batch: int
    speed: float
    interval: Interval | None
    tau: float | None
    base: str
    source: Source


def speed_by_batch(sources: Sources) -> list[Chart | Absent]:
    """Speed over plain decoding against the batch, a line a method and length."""
    found = [*_of_plans(sources), *_of_methods(sources)]
    if not found:
        needs = "speeds.json of `eagle-hf plan`, or `eagle-hf evaluate --methods --batch-sizes`"
        return [Absent(TITLE, needs)]
    names = names_apart(list(dict.fromkeys(one.key for one in found)))
    series = []
    lines = []
    for key, name in names.items():
        points = []
        for one in sorted((one for one in found if one.key == key), key=lambda one: one.batch):
            tip = f"{name}, batch {one.batch}\n{show(one.speed)} times {one.base}"
            if one.interval is not None:
                tip += f"\n95 %: {show_interval(one.interval)}"
            if one.tau is not None:
                tip += f"\n{show(one.tau)} tokens a round"
            points.append(Point(one.batch, one.speed, tip, one.interval))
            numbers = (show(one.speed), show_interval(one.interval), show(one.tau))
            lines.append((name, one.base, str(one.batch), *numbers))
        series.append(Series(name, tuple(points)))
    kept, said = drawn_series(series)
    form = Lines("batch", "times plain decoding", kept, is_log=True, reference=PLAIN_SPEED)
    bases = " and ".join(dict.fromkeys(one.base for one in found))
    caption = f"Measured speed over {bases}, by rows decoded at once and tokens of context.{said}"
    table = Table(("method", "over", "batch", "speed", "95 %", "tau"), tuple(lines), texts=2)
    is_simulated = any(one.source.is_simulated for one in found)
    return [Chart("speed-by-batch", TITLE, caption, form, table, is_simulated)]


def _of_plans(sources: Sources) -> list[BatchSpeed]:
    """What a plan's trees gained in its cells."""
    found = []
    for source in sources.of("speeds"):
        for row in source.data:
            key = (row.method, f"{row.length:,} tokens", "", source.label)
            speed = BatchSpeed(key, row.batch, row.measured, row.interval, row.tau, LOOP, source)
            found.append(speed)
    return found


def _of_methods(sources: Sources) -> list[BatchSpeed]:
    """Methods that were measured at several batch sizes, on all prompts and on long ones."""
    found: dict[tuple[str, ...], list[BatchSpeed]] = {}
    for source, row in method_rows(sources):
        is_drawn = row.category == ALL or row.prompt_tokens is not None
        if row.speedup is None or row.batch is None or row.method == PLAIN or not is_drawn:
            continue
        length = "all prompts"
        if row.prompt_tokens is not None:
            length = f"{row.prompt_tokens:,} tokens"
        key = (row.method, length, row.settings[0], source.label)
        speed = BatchSpeed(
            key, row.batch, row.speedup, row.speedup_interval, row.tau, GENERATE, source
        )
        found.setdefault(key, []).append(speed)
    several = [own for own in found.values() if len({one.batch for one in own}) > 1]
    return [one for own in several for one in own]
