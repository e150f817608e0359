"""One number against another of the same kind, beside the line on which both are equal."""

from dataclasses import dataclass

from eagle_hf.evaluation.charts.canvas import Canvas, series_styles
from eagle_hf.evaluation.charts.chart import Series, shorten
from eagle_hf.evaluation.charts.theme import LIGHT

HEIGHT = 330  # pixels
NARROW_HEIGHT = 300
ROOM = 1.1  # beyond the largest number


@dataclass(frozen=True)
class Scatter:
    """Points over the line of equal numbers.

    Args:
        x_label, y_label: what the numbers are.
        series: with intervals of y.
    """

    x_label: str
    y_label: str
    series: tuple[Series, ...]

    def height(self, is_narrow: bool) -> float:
        """Of the drawing, in pixels, without its legend."""
        return NARROW_HEIGHT if is_narrow else HEIGHT

    def draw(self, canvas: Canvas) -> None:
        """Draw on a canvas."""
        axes = canvas.axes
        largest = 0.0
        for series, (colour, marker) in zip(self.series, series_styles(self.series), strict=True):
            dots = None
            for point in series.points:
                if point.interval is not None:
                    axes.vlines(point.x, *point.interval, color=colour, linewidth=2.5, alpha=0.45)
                    largest = max(largest, point.interval[1])
                (dots,) = axes.plot(point.x, point.y, marker, color=colour, markersize=8)
                largest = max(largest, point.x, point.y)
                canvas.add_point(point)
            if dots is not None:
                canvas.add_to_legend(dots, shorten(series.name))
        ends = [0.0, ROOM * largest]
        (line,) = axes.plot(ends, ends, "--", color=LIGHT["plain"], linewidth=1.5)
        canvas.add_to_legend(line, "as predicted")
        axes.set(xlabel=self.x_label, ylabel=self.y_label, xlim=ends, ylim=ends)
        axes.grid()
        axes.tick_params(length=0, pad=11)  # both axes have a zero in the corner
        axes.xaxis.get_major_locator().set_params(nbins=5)
        axes.yaxis.get_major_locator().set_params(nbins=5)
