"""What a report is made of: charts with their tables, and charts that lack their data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

NOTHING = "–"  # an entry of a table that was not measured
Interval = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A measured number, drawn.

    Attributes:
        x, y: where. In rows, y is the row's index.
        tip: what hovering over it says; its first line is a heading.
        interval: of the number, where there is one.
    """

    x: float
    y: float
    tip: str
    interval: Interval | None = None


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        name: for the legend.
        points: in the order in which they are joined.
        is_plain: whether this is what the others are compared with; it is drawn in grey.
    """

    name: str
    points: tuple[Point, ...]
    is_plain: bool = False


@dataclass(frozen=True)
class Table:
    """The numbers of a chart, as texts.

    Attributes:
        columns: their names.
        rows: as long as `columns`.
        texts: how many of the first columns are words; the others are numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


class Form(Protocol):
    """How a chart is drawn: lines, rows of dots, stacked bars, a scatter, a tree."""

    def height(self, is_narrow: bool) -> float:
        """Of the drawing, in pixels, without its legend."""
        ...

    def draw(self, canvas) -> None:
        """Draw on a `canvas.Canvas`."""
        ...


@dataclass(frozen=True)
class Chart:
    """A chart of a report.

    Attributes:
        name: of its files, and its address in the page.
        title: what it shows.
        caption: what is seen there, in a sentence or two.
        form: the drawing.
        table: every number of it.
        is_simulated: whether any of them was computed, not measured.
    """

    name: str
    title: str
    caption: str
    form: Form
    table: Table
    is_simulated: bool = False


@dataclass(frozen=True)
class Absent:
    """A chart that is not drawn because its data is absent.

    Attributes:
        title: what it would show.
        needs: what makes that data.
    """

    title: str
    needs: str


def by_needs(absent: Sequence[Absent]) -> list[tuple[str, str]]:
    """(titles, what they need) of absent charts, those with the same needs together."""
    titles: dict[str, list[str]] = {}
    for one in absent:
        titles.setdefault(one.needs, []).append(one.title)
    return [(", ".join(own), needs) for needs, own in titles.items()]


def show(value: float | None, digits: int = 2, unit: str = "") -> str:
    """A number as text; a dash where there is none."""
    if value is None:
        return NOTHING
    return f"{value:,.{digits}f}{unit}"


def show_interval(interval: Sequence[float] | None, digits: int = 2) -> str:
    """An interval as text; a dash where there is none."""
    if interval is None:
        return NOTHING
    low, high = interval
    return f"{low:,.{digits}f} to {high:,.{digits}f}"


def shorten(name: str, longest: int = 30) -> str:
    """A name that fits beside a drawing: of a path its end, of a long text both ends."""
    if "/" in name and len(name) > longest:
        before, _, path = name.rpartition(" ")
        kind, colon, rest = path.partition(":")
        start = f"{kind}:" if colon and "/" not in kind else ""
        end = (rest if start else path).rstrip("/").rpartition("/")[2]
        name = f"{before} {start}{end}".strip()
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def two_lines(name: str, longest: int) -> str:
    """A name beside a row: what it is, and below it how it differs from others."""
    first, _, rest = name.partition(", ")
    lines = [shorten(first, longest)]
    if rest:
        lines.append(shorten(rest, longest))
    return "\n".join(lines)
