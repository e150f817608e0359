"""Dots with intervals, a row a name."""

from dataclasses import dataclass, field

from eagle_hf.evaluation.charts.canvas import Canvas, series_styles
from eagle_hf.evaluation.charts.chart import Series, shorten, two_lines
from eagle_hf.evaluation.charts.theme import LIGHT

ROW = 34  # pixels
LEAST_ROW = 15  # of one dot of several in a row
AXIS = 52  # pixels of the axis below
APART = 0.2  # of a row, from one series' dots to the next
BETWEEN = 0.66  # of a row at most, from the first to the last
ROOM = 1.06
LONGEST = 26  # characters of a row's name
LONGEST_NARROW = 18


@dataclass(frozen=True)
class Rows:
    """Numbers from left to right, a row a name; several series lie above each other.

    Args:
        x_label: what the numbers are.
        names: of the rows, from above.
        series: a point's y is the index of its row.
        reference: a number to which the others are compared, with its name.
        notes: by row, what is said where there is no number.
    """

    x_label: str
    names: tuple[str, ...]
    series: tuple[Series, ...]
    reference: tuple[float, str] | None = None
    notes: dict[int, str] = field(default_factory=dict)

    def height(self, is_narrow: bool) -> float:
        """Of the drawing, in pixels, without its legend."""
        row = max(ROW, LEAST_ROW * len(self.series) + 10)
        return AXIS + row * len(self.names)

    def draw(self, canvas: Canvas) -> None:
        """Draw on a canvas."""
        axes = canvas.axes
        if self.reference is not None:
            value, name = self.reference
            line = axes.axvline(value, color=LIGHT["plain"], linewidth=1.5, linestyle="--")
            canvas.add_to_legend(line, name)
        styles = series_styles(self.series)
        count = len(self.series)
        for index, (series, style) in enumerate(zip(self.series, styles, strict=True)):
            step = min(APART, BETWEEN / max(count - 1, 1))
            shift = step * (index - (count - 1) / 2)
            self._draw_series(canvas, series, style, shift)
        if count > 1:
            for row in range(1, len(self.names)):
                axes.axhline(row - 0.5, color=LIGHT["grid"], linewidth=1)
        for row, note in self.notes.items():
            axes.annotate(
                note,
                (0, row),
                xycoords=axes.get_yaxis_transform(),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=LIGHT["muted"],
            )
        longest = LONGEST_NARROW if canvas.is_narrow else LONGEST
        axes.set_yticks(range(len(self.names)), [two_lines(name, longest) for name in self.names])
        axes.tick_params(axis="y", labelcolor=LIGHT["ink"])
        axes.set(xlabel=self.x_label, ylim=(len(self.names) - 0.5, -0.5))
        axes.set_xlim(0, self._end())
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.get_major_locator().set_params(nbins=4 if canvas.is_narrow else 6)

    def _end(self) -> float:
        """Where the axis ends: there is room beyond the largest number."""
        ends = [0.0 if self.reference is None else self.reference[0]]
        for series in self.series:
            for point in series.points:
                ends.append(point.x if point.interval is None else point.interval[1])
        return ROOM * max(ends)

    def _draw_series(
        self, canvas: Canvas, series: Series, style: tuple[str, str], shift: float
    ) -> None:
        """Draw one series, moved down by a share of a row."""
        colour, marker = style
        dots = None
        for point in series.points:
            row = point.y + shift
            if point.interval is not None:
                canvas.axes.hlines(row, *point.interval, color=colour, linewidth=2.5, alpha=0.45)
            (dots,) = canvas.axes.plot(point.x, row, marker, color=colour, markersize=8)
            canvas.add_point(type(point)(point.x, row, point.tip))
        if dots is not None and len(self.series) > 1:
            canvas.add_to_legend(dots, shorten(series.name))
