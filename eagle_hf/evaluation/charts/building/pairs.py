"""Charts of drafters for one target: how often their drafts are accepted, and how fast that is."""

from collections.abc import Sequence

from eagle_hf.evaluation.charts.building.naming import names_apart
from eagle_hf.evaluation.charts.chart import (
    Absent,
    Chart,
    Point,
    Series,
    Table,
    show,
    show_interval,
)
from eagle_hf.evaluation.charts.drafters import PairRow
from eagle_hf.evaluation.charts.forms import PLAIN_SPEED, Rows
from eagle_hf.evaluation.charts.sources import Source, Sources

PAIR = "metrics.json of `eagle-hf pair`"
ACCEPTED = "Drafters by acceptance"
SPEED = "Drafters by speed"
Paired = tuple[Source, PairRow]


def drafters(sources: Sources) -> list[Chart | Absent]:
    """Two charts of the same drafters: accepted drafts, and speed over plain decoding."""
    pairs = [(source, row) for source in sources.of("pairs") for row in source.data]
    if not pairs:
        return [Absent(ACCEPTED, PAIR), Absent(SPEED, PAIR)]
    names = names_apart([_key(entry) for entry in pairs])
    table = _table(pairs, names)
    is_simulated = any(source.is_simulated for source, _ in pairs)
    charts: list[Chart | Absent] = []
    counted = [entry for entry in pairs if entry[1].accepted is not None]
    if counted:
        counted.sort(key=lambda entry: -(entry[1].accepted or 0.0))
        points = []
        for place, entry in enumerate(counted):
            row = entry[1]
            assert row.accepted is not None
            tip = f"{names[_key(entry)]}\n{row.accepted:.0%} of its drafts accepted"
            tip += f"\n{show(row.tau)} tokens a round"
            points.append(Point(100 * row.accepted, place, tip))
        form = Rows(
            "percent of the drafts accepted",
            tuple(names[_key(entry)] for entry in counted),
            (Series("drafters", tuple(points)),),
        )
        caption = "Share of the drafts that the target keeps, of chains of the same length."
        charts.append(Chart("pairs-accepted", ACCEPTED, caption, form, table, is_simulated))
    else:
        charts.append(Absent(ACCEPTED, f"{PAIR}, measured anew"))
    charts.append(_speed_chart(pairs, names, table, is_simulated))
    return charts


def _speed_chart(pairs: Sequence[Paired], names: dict, table: Table, is_simulated: bool) -> Chart:
    """Speed over plain decoding, the fastest above."""
    ranked = sorted(pairs, key=lambda entry: -entry[1].measured)
    points = []
    for place, entry in enumerate(ranked):
        row = entry[1]
        tip = f"{names[_key(entry)]}\n{show(row.measured)} times plain decoding"
        tip += f"\n95 %: {show_interval(row.interval)}\npredicted {show(row.predicted)}"
        points.append(Point(row.measured, place, tip, row.interval))
    form = Rows(
        "times plain decoding's speed",
        tuple(names[_key(entry)] for entry in ranked),
        (Series("drafters", tuple(points)),),
        reference=PLAIN_SPEED,
    )
    best = ranked[0]
    caption = f"Fastest: {names[_key(best)]}, {best[1].verdict}."
    return Chart("pairs-speed", SPEED, caption, form, table, is_simulated)


def _key(entry: Paired) -> tuple[str, ...]:
    """What tells a drafter from others."""
    source, row = entry
    return (row.drafter, source.label)


def _table(pairs: Sequence[Paired], names: dict) -> Table:
    """All that was judged of every drafter."""
    lines = []
    for entry in sorted(pairs, key=lambda entry: -entry[1].measured):
        row = entry[1]
        accepted = None if row.accepted is None else 100 * row.accepted
        numbers = [show(accepted, 0), show(row.tau), show(row.predicted), show(row.measured)]
        lines.append((names[_key(entry)], row.verdict, *numbers, show_interval(row.interval)))
    columns = ("drafter", "verdict", "accepted, %", "tau", "predicted", "measured", "95 %")
    return Table(columns, tuple(lines), texts=2)
