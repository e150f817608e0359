"""Bars made of parts, a row a name."""

from dataclasses import dataclass

from eagle_hf.evaluation.charts.canvas import Canvas, series_styles
from eagle_hf.evaluation.charts.chart import Series, two_lines
from eagle_hf.evaluation.charts.forms.rows import AXIS, LONGEST, LONGEST_NARROW, ROW
from eagle_hf.evaluation.charts.theme import LIGHT

THICK = 0.6  # share of a row


@dataclass(frozen=True)
class Stacks:
    """Parts that add up, a row a name.

    Args:
        x_label: what they add up to.
        names: of the rows, from above.
        parts: a series a part; a point's x is its size, its y the index of the row.
    """

    x_label: str
    names: tuple[str, ...]
    parts: tuple[Series, ...]

    def height(self, is_narrow: bool) -> float:
        """Of the drawing, in pixels, without its legend."""
        return AXIS + ROW * len(self.names)

    def draw(self, canvas: Canvas) -> None:
        """Draw on a canvas."""
        axes = canvas.axes
        ends = [0.0] * len(self.names)
        for part, (colour, _) in zip(self.parts, series_styles(self.parts), strict=True):
            bars = None
            for point in part.points:
                row = int(point.y)
                end = ends[row] + point.x
                bars = axes.barh(
                    row, point.x, THICK, ends[row], color=colour, edgecolor=LIGHT["surface"]
                )
                canvas.add_box(ends[row], end, row - THICK / 2, row + THICK / 2, point.tip)
                ends[row] = end
            if bars is not None:
                canvas.add_to_legend(bars, part.name)
        longest = LONGEST_NARROW if canvas.is_narrow else LONGEST
        axes.set_yticks(range(len(self.names)), [two_lines(name, longest) for name in self.names])
        axes.tick_params(axis="y", labelcolor=LIGHT["ink"])
        axes.set(xlabel=self.x_label, ylim=(len(self.names) - 0.5, -0.5))
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.get_major_locator().set_params(nbins=4 if canvas.is_narrow else 6)
