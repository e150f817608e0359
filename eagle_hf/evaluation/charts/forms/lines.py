"""Numbers along an axis: one line a series."""

from dataclasses import dataclass

from eagle_hf.evaluation.charts.canvas import Canvas, series_styles
from eagle_hf.evaluation.charts.chart import Series, shorten
from eagle_hf.evaluation.charts.theme import LIGHT

PLAIN_SPEED = (1.0, "plain decoding")  # of speeds over it
HEIGHT = 260  # pixels
NARROW_HEIGHT = 230
TICKS = 6  # of an axis that is not by doublings
# The least share of the axis between two labelled numbers.
APART = 0.1
NARROW_APART = 0.16


@dataclass(frozen=True)
class Lines:
    """One line a series, from zero upwards.

    Args:
        x_label, y_label: what the axes are.
        series: their points by ascending x.
        is_log: whether x is drawn by doublings, as concurrency is.
        top: end of the y axis; None for what the points need.
        reference: a number to which the others are compared, with its name.
    """

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    is_log: bool = False
    top: float | None = None
    reference: tuple[float, str] | None = None

    def height(self, is_narrow: bool) -> float:
        """Of the drawing, in pixels, without its legend."""
        return NARROW_HEIGHT if is_narrow else HEIGHT

    def draw(self, canvas: Canvas) -> None:
        """Draw on a canvas."""
        axes = canvas.axes
        if self.reference is not None:
            value, name = self.reference
            line = axes.axhline(value, color=LIGHT["plain"], linewidth=1.5, linestyle="--")
            canvas.add_to_legend(line, name)
        styles = series_styles(self.series)
        for series, (colour, marker) in zip(self.series, styles, strict=True):
            xs = [point.x for point in series.points]
            ys = [point.y for point in series.points]
            style = "--" if series.is_plain else "-"
            (line,) = axes.plot(xs, ys, style, color=colour, marker=marker, clip_on=False)
            for point in series.points:
                if point.interval is not None:
                    axes.vlines(point.x, *point.interval, color=colour, alpha=0.5)
                canvas.add_point(point)
            canvas.add_to_legend(line, shorten(series.name))
        axes.set(xlabel=self.x_label, ylabel=self.y_label)
        axes.set_ylim(0, self.top)
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.tick_params(axis="x", pad=7)  # below the marker of a zero
        axes.yaxis.get_major_locator().set_params(nbins=TICKS)
        self._label_x(canvas)

    def _label_x(self, canvas: Canvas) -> None:
        """Label measured numbers where these are few, round ones otherwise."""
        axes = canvas.axes
        values = sorted({point.x for series in self.series for point in series.points})
        if not self.is_log:
            axes.xaxis.get_major_locator().set_params(
                nbins=TICKS - 2 if canvas.is_narrow else TICKS, integer=True
            )
            axes.xaxis.set_major_formatter("{x:,.0f}")
            return
        axes.set_xscale("log", base=2)
        apart = NARROW_APART if canvas.is_narrow else APART
        labelled = spread(values, apart)
        axes.set_xticks(labelled, [f"{value:,g}" for value in labelled])
        axes.set_xticks([], minor=True)
        if len(values) == 1:  # the only point stands in the middle
            axes.set_xlim(values[0] / 2, values[0] * 2)


def spread(values: list[float], apart: float) -> list[float]:
    """Those of ascending values whose labels have room on an axis by doublings."""
    if len(values) < 3:
        return values
    whole = values[-1] / values[0]
    kept = [values[0]]
    for value in values[1:]:
        if value / kept[-1] >= whole**apart:
            kept.append(value)
    return kept
