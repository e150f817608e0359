"""Charts of methods that were measured in this process."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from eagle_hf.decoding.stats import PHASES
from eagle_hf.evaluation.charts.building.naming import drawn_series, names_apart
from eagle_hf.evaluation.charts.chart import (
    NOTHING,
    Absent,
    Chart,
    Point,
    Series,
    Table,
    show,
    show_interval,
)
from eagle_hf.evaluation.charts.forms import PLAIN_SPEED, Rows, Stacks
from eagle_hf.evaluation.charts.measured import ALL, PLAIN, MethodRow
from eagle_hf.evaluation.charts.sources import Source, Sources

EVALUATE = "metrics.json of `eagle-hf evaluate`"
EVALUATE_METHODS = "metrics.json of `eagle-hf evaluate --methods`"
FAILED = "failed"
MOST_ROWS = 14  # drawn of methods in all settings
Measured = tuple[Source, MethodRow]


def method_rows(sources: Sources) -> list[Measured]:
    """All rows of methods, each with its file."""
    rows = []
    for kind in ("methods", "head"):
        for source in sources.of(kind):
            rows += [(source, row) for row in source.data]
    return rows


def key_of(measured: Measured) -> tuple[str, ...]:
    """What tells a row from others of its category."""
    source, row = measured
    return (row.method, *row.settings, source.label)


def first_setting(rows: Sequence[Measured]) -> list[Measured]:
    """The rows of each file's first setting; those of others are in tables."""
    first: dict[Path, str] = {}
    for source, row in rows:
        if row.failed is None:
            first.setdefault(source.path, row.setting)
    return [(source, row) for source, row in rows if row.setting == first.get(source.path)]


def settings_said(rows: Iterable[Measured]) -> str:
    """The settings of rows, for a caption."""
    return " and ".join(dict.fromkeys(row.setting for _, row in rows if row.setting))


def speed_by_method(sources: Sources) -> list[Chart | Absent]:
    """Speed over plain decoding, a row a method, with intervals."""
    title = "Speed by method"
    rows = [entry for entry in method_rows(sources) if entry[1].category in (ALL, "")]
    shown = [entry for entry in rows if entry[1].failed or entry[1].speedup is not None]
    drafting = [entry for entry in shown if entry[1].method != PLAIN]
    if not drafting:
        return [Absent(title, EVALUATE)]
    drawn, said = _drawn_methods(drafting)
    names = names_apart([key_of(entry) for entry in drawn])
    points = []
    notes = {}
    for index, entry in enumerate(drawn):
        row = entry[1]
        if row.failed is not None:
            notes[index] = FAILED
        else:
            points.append(_speed_point(names[key_of(entry)], row, index))
    form = Rows(
        "times plain decoding's speed",
        tuple(names[key_of(entry)] for entry in drawn),
        (Series("methods", tuple(points)),),
        reference=PLAIN_SPEED,
        notes=notes,
    )
    caption = _speed_caption([row for _, row in drafting]) + said
    return [_chart("speed-by-method", title, caption, form, _speed_table(shown), drafting)]


def _drawn_methods(rows: Sequence[Measured]) -> tuple[list[Measured], str]:
    """The rows that are drawn, the fastest above, failed ones below; and what is said of others."""
    failed = [entry for entry in rows if entry[1].failed is not None]
    measured = [entry for entry in rows if entry[1].failed is None]
    said = ""
    if len(measured) > MOST_ROWS:
        every = len(measured)
        measured = first_setting(measured)[:MOST_ROWS]
        said = f" Drawn are {len(measured)} of {every} rows, of the first setting."

    def slowness(entry: Measured) -> float:
        return -(entry[1].speedup or 0.0)

    return [*sorted(measured, key=slowness), *failed], said


def _speed_point(name: str, row: MethodRow, index: int) -> Point:
    """A method's speed over plain decoding."""
    assert row.speedup is not None, "rows without a speed are not drawn"
    tip = f"{name}\n{show(row.speedup)} times plain decoding"
    if row.speedup_interval is not None:
        tip += f"\n95 %: {show_interval(row.speedup_interval)}"
    if row.tau is not None:
        tip += f"\n{show(row.tau)} tokens a round"
    return Point(row.speedup, index, tip, row.speedup_interval)


def _chart(
    name: str, title: str, caption: str, form, table: Table, rows: Iterable[Measured]
) -> Chart:
    """A chart, simulated where any of its files is."""
    is_simulated = any(source.is_simulated for source, _ in rows)
    return Chart(name, title, caption, form, table, is_simulated)


def _speed_caption(rows: Sequence[MethodRow]) -> str:
    """Which method is the fastest, and whether that is sure."""
    measured = [row for row in rows if row.speedup is not None]
    if not measured:
        return "Every method failed; the table says why."
    best = max(measured, key=lambda row: row.speedup or 0.0)
    said = f"Fastest: {best.method} with {show(best.speedup)} times plain decoding"
    interval = best.speedup_interval
    if interval is None:
        return f"{said}."
    said += f" (95 %: {show_interval(interval)})"
    if interval[0] <= 1 <= interval[1]:
        return f"{said}: no clear difference."
    return f"{said}."


def _method_names(rows: Sequence[Measured]) -> dict:
    """Names for a table with a column for the setting: by method and, where needed, by file."""
    return names_apart([(row.method, source.label) for source, row in rows])


def _speed_table(rows: Sequence[Measured]) -> Table:
    """Everything that was measured of methods, of all categories."""
    names = _method_names(rows)
    lines = []
    for source, row in rows:
        if row.failed is not None:
            lines.append((names[row.method, source.label], f"failed: {row.failed}", *[NOTHING] * 8))
            continue
        lines.append(
            (
                names[row.method, source.label],
                row.setting,
                NOTHING if row.prompts is None else str(row.prompts),
                show(row.tokens_s, 1),
                show_interval(row.tokens_s_interval, 1),
                show(row.speedup),
                show_interval(row.speedup_interval),
                show(row.tau),
                show_interval(row.tau_interval),
                _identical(row),
            )
        )
    columns = (
        "method",
        "setting",
        "prompts",
        "tokens/s",
        "95 %",
        "over plain",
        "95 %",
        "tau",
        "95 %",
        "identical",
    )
    return Table(columns, tuple(lines), texts=2)


def _identical(row: MethodRow) -> str:
    """The share of identical answers, with ties."""
    if row.identical is None:
        return NOTHING
    ties = f" (+{row.ties} ties)" if row.ties else ""
    return f"{row.identical:.0%}{ties}"


def speed_by_category(sources: Sources) -> list[Chart | Absent]:
    """Tokens per second by category of prompts, a series a method."""
    title = "Speed by category"
    named = [
        entry
        for entry in method_rows(sources)
        if entry[1].category not in (ALL, "") and entry[1].tokens_s is not None
    ]
    if not named:
        return [Absent(title, f"{EVALUATE} with prompts of categories")]
    drawn = first_setting(named)
    categories = list(dict.fromkeys(row.category for _, row in drawn))
    names = names_apart(list(dict.fromkeys(key_of(entry) for entry in drawn)))
    series = []
    for key, name in names.items():
        own: dict[str, MethodRow] = {}  # plain decoding stands beside every tree of a head
        for entry in drawn:
            if key_of(entry) == key:
                own.setdefault(entry[1].category, entry[1])
        points = []
        for row in own.values():
            assert row.tokens_s is not None
            tip = f"{name}, {row.category}\n{show(row.tokens_s, 1)} tokens a second"
            if row.tokens_s_interval is not None:
                tip += f"\n95 %: {show_interval(row.tokens_s_interval, 1)}"
            if row.speedup is not None:
                tip += f"\n{show(row.speedup)} times plain decoding"
            place = categories.index(row.category)
            points.append(Point(row.tokens_s, place, tip, row.tokens_s_interval))
        series.append(Series(name, tuple(points), key[0] == PLAIN))
    kept, said = drawn_series(series)
    form = Rows("tokens a second", tuple(categories), kept)
    caption = f"New tokens a second of whole calls, {settings_said(drawn)}.{said}"
    table = _category_table(named)
    return [_chart("speed-by-category", title, caption, form, table, drawn)]


def _category_table(rows: Sequence[Measured]) -> Table:
    """Speed and acceptance of every method by category."""
    names = _method_names(rows)
    lines = []
    for source, row in rows:
        lines.append(
            (
                row.category,
                names[row.method, source.label],
                row.setting,
                show(row.tokens_s, 1),
                show_interval(row.tokens_s_interval, 1),
                show(row.speedup),
                show_interval(row.speedup_interval),
                show(row.tau),
            )
        )
    columns = ("category", "method", "setting", "tokens/s", "95 %", "over plain", "95 %", "tau")
    return Table(columns, tuple(lines), texts=3)


def round_time(sources: Sources) -> list[Chart | Absent]:
    """Where a round's time goes, a bar a method or profile."""
    title = "Where a round's time goes"
    bars: dict[tuple[str, ...], dict[str, float]] = {}  # milliseconds by phase
    used: list[Source] = []
    for source, row in method_rows(sources):
        if row.seconds and row.category == ALL and row.method != PLAIN:
            milliseconds = {name: 1000 * value for name, value in row.seconds.items()}
            bars[key_of((source, row))] = milliseconds
            used.append(source)
    for source in sources.of("profile"):
        bars[source.data.tree, "", "", "profile", source.label] = source.data.phases
        used.append(source)
    if not bars:
        return [Absent(title, f"{EVALUATE_METHODS}, or of `eagle-hf profile`")]
    names = names_apart(list(bars))
    known = [phase for phase in PHASES if any(phase in bar for bar in bars.values())]
    others = [phase for bar in bars.values() for phase in bar if phase not in PHASES]
    phases = [*known, *dict.fromkeys(others)]
    parts = []
    for phase in phases:
        points = []
        for index, (key, bar) in enumerate(bars.items()):
            size = bar.get(phase, 0.0)
            share = size / sum(bar.values()) if sum(bar.values()) else 0.0
            tip = f"{names[key]}: {phase}\n{show(size)} ms a round, {share:.0%}"
            points.append(Point(size, index, tip))
        parts.append(Series(phase, tuple(points)))
    form = Stacks("milliseconds a round", tuple(names.values()), tuple(parts))
    lines = []
    for key, bar in bars.items():
        sizes = [show(bar.get(phase), 2) for phase in phases]
        lines.append((names[key], *sizes, show(sum(bar.values()))))
    table = Table(("method", *phases, "round"), tuple(lines))
    caption = (
        "Milliseconds of one draft-verify-commit cycle: the target's forward, the drafter's, the "
        "rest of drafting, accepting and committing."
    )
    is_simulated = any(source.is_simulated for source in used)
    return [Chart("round-time", title, caption, form, table, is_simulated)]
