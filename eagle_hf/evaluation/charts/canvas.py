"""A form on a matplotlib figure, and the figure as SVG for a page or as a picture's file.

One unit of a figure is a CSS pixel. Where a number is drawn, the canvas notes a mark, which the
page turns into what hovering says.
"""

import io
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from eagle_hf.data.optional import require
from eagle_hf.evaluation.charts.chart import Chart, Point, Series
from eagle_hf.evaluation.charts.theme import (
    FONT_SIZE,
    LIGHT,
    MARKERS,
    MOST_SERIES,
    PLAIN_MARKER,
    SERIES,
    STYLE,
    with_variables,
)

WIDE = 560  # pixels
NARROW = 340  # a phone held upright
DPI = 72  # of a figure whose points are pixels
PICTURE_DPI = 216  # three dots a pixel
LEGEND_LINE = 19  # pixels
TITLE_LINE = 24
CHARACTER = 7.4  # pixels, wide ones included
SIMULATED = "simulated"
PICTURES = ("png", "svg")
# What matplotlib says of itself in a file, and what changes from one second to the next.
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Mark:
    """Where a number is drawn, in pixels from the drawing's upper left corner.

    Attributes:
        x, y: the centre.
        width, height: 0 for a point.
        tip: what it says.
    """

    x: float
    y: float
    width: float
    height: float
    tip: str


class Canvas:
    """A form, drawn.

    Args:
        chart: what is drawn.
        width: in pixels.
        with_title: whether the chart's title is part of the drawing.

    Attributes:
        axes: matplotlib's.
        figure: the same.
        is_narrow: whether it is as wide as a phone.
    """

    def __init__(self, chart: Chart, width: int = WIDE, with_title: bool = False):
        matplotlib = require("matplotlib", "matplotlib", "a report's charts", extra="report")
        figures = require("matplotlib.figure", "matplotlib", "a report's charts", extra="report")
        self._style = matplotlib.rc_context
        self._points: list[tuple[float, float, str]] = []
        self._boxes: list[tuple[float, float, float, float, str]] = []
        self._legend: list[tuple[Any, str]] = []
        self._head: list[tuple[Any, float]] = []  # with how far down it begins
        self.width = width
        self.is_narrow = width < WIDE
        with self._style(STYLE):
            self.figure = figures.Figure(dpi=DPI, layout="constrained")
            self.figure.set_facecolor("none")
            self.axes = self.figure.subplots()
            self.axes.set_facecolor("none")
            chart.form.draw(self)
            head = self._draw_head(chart, with_title)
            self.height = chart.form.height(self.is_narrow) + head
            self.figure.set_size_inches(width / DPI, self.height / DPI)
            # what stands above the axes has its own room there
            self.figure.get_layout_engine().set(rect=(0, 0, 1, 1 - head / self.height))
            self._place_head()
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")  # what is laid out stays where the marks are

    def add_point(self, point: Point) -> None:
        """Note where a point's number is."""
        self._points.append((point.x, point.y, point.tip))

    def add_box(self, left: float, right: float, bottom: float, top: float, tip: str) -> None:
        """Note where a box's number is, in the units of the axes."""
        self._boxes.append((left, right, bottom, top, tip))

    def add_to_legend(self, artist: Any, name: str) -> None:
        """Explain an artist."""
        self._legend.append((artist, name))

    @property
    def marks(self) -> list[Mark]:
        """Where the numbers are, in pixels."""
        marks = []
        for x, y, tip in self._points:
            across, up = self.axes.transData.transform((x, y))
            marks.append(Mark(across, self.height - up, 0, 0, tip))
        for left, right, bottom, top, tip in self._boxes:
            x0, y0 = self.axes.transData.transform((left, bottom))
            x1, y1 = self.axes.transData.transform((right, top))
            across = (x0 + x1) / 2
            down = self.height - (y0 + y1) / 2
            marks.append(Mark(across, down, abs(x1 - x0), abs(y1 - y0), tip))
        return marks

    def _draw_head(self, chart: Chart, with_title: bool) -> float:
        """Draw what stands above the axes; returns its height in pixels."""
        height = 0.0
        title = chart.title if with_title else ""
        if with_title and chart.is_simulated:  # in a page the heading says so
            title += f" ({SIMULATED})"
        if title:
            self._head.append((self._text(title), height))
            height += TITLE_LINE
        if self._legend:
            artists = [artist for artist, _ in self._legend]
            names = [name for _, name in self._legend]
            columns = self._legend_columns(names)
            legend = self.figure.legend(
                artists,
                names,
                loc="upper left",
                ncols=columns,
                frameon=False,
                handlelength=1.6,
                columnspacing=1.4,
                borderaxespad=0,
                borderpad=0,
            )
            legend.set_in_layout(False)
            self._head.append((legend, height))
            height += LEGEND_LINE * -(-len(names) // columns) + 4
        return height

    def _text(self, title: str) -> Any:
        """A line of text at the drawing's left edge."""
        text = self.figure.text(0.01, 1, title, va="top", fontsize=FONT_SIZE + 1, weight="bold")
        text.set_in_layout(False)
        return text

    def _place_head(self) -> None:
        """Move what stands above the axes to where it belongs, now that the height is known."""
        for artist, down in self._head:
            up = 1 - (down + 2) / self.height
            if hasattr(artist, "set_bbox_to_anchor"):
                artist.set_bbox_to_anchor((0.005, up), self.figure.transFigure)
            else:
                artist.set_y(up)

    def _legend_columns(self, names: list[str]) -> int:
        """How many names fit beside each other."""
        widest = max(map(len, names)) * CHARACTER + 46
        return max(1, min(len(names), int(self.width // widest)))

    def save(self, path: Path) -> None:
        """Write the drawing as a picture; the ending decides which kind."""
        with self._style(STYLE | {"svg.hashsalt": path.stem}):
            if path.suffix == ".svg":
                self.figure.savefig(path, facecolor=LIGHT["surface"], metadata=NO_METADATA)
            else:
                self.figure.savefig(path, facecolor=LIGHT["surface"], dpi=PICTURE_DPI)

    def svg(self, prefix: str, label: str) -> str:
        """The drawing for a page: colours as variables, ids of its own, marks on top.

        Args:
            prefix: of all ids, different for every drawing of the page.
            label: what a reader is told who does not see it.
        """
        written = io.StringIO()
        with self._style(STYLE | {"svg.hashsalt": prefix}):
            self.figure.savefig(written, format="svg", metadata=NO_METADATA)
        drawing = written.getvalue()
        drawing = drawing[drawing.index("<svg") :]
        drawing = re.sub(r"<style.*?</style>", "", drawing, flags=re.DOTALL)
        drawing = re.sub(r'\bid="', f'id="{prefix}-', drawing)
        drawing = re.sub(r"url\(#", f"url(#{prefix}-", drawing)
        drawing = re.sub(r'href="#', f'href="#{prefix}-', drawing)
        body = drawing[drawing.index(">") + 1 : drawing.rindex("</svg>")]
        head = (
            f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {self.width} '
            f'{self.height:g}" xmlns="http://www.w3.org/2000/svg" '
            'xmlns:xlink="http://www.w3.org/1999/xlink">'
        )
        return f"{head}{with_variables(body)}{self._svg_marks()}</svg>"

    def _svg_marks(self) -> str:
        """The marks as elements that the page's script finds."""
        parts = []
        for mark in self.marks:
            tip = escape(mark.tip).replace("\n", "&#10;")
            if mark.width:
                left = mark.x - mark.width / 2
                top = mark.y - mark.height / 2
                place = f'rect x="{left:.1f}" y="{top:.1f}"'
                size = f'width="{mark.width:.1f}" height="{mark.height:.1f}"'
            else:
                place = f'circle cx="{mark.x:.1f}" cy="{mark.y:.1f}"'
                size = 'r="6"'
            parts.append(f'<{place} {size} class="mark" data-tip="{tip}"/>')
        return f'<g class="marks">{"".join(parts)}</g>'


def series_styles(series: tuple[Series, ...]) -> list[tuple[str, str]]:
    """(colour, marker) of every series; more than there are colours is our own mistake."""
    styles = []
    used = 0
    for one in series:
        if one.is_plain:
            styles.append((LIGHT["plain"], PLAIN_MARKER))
            continue
        assert used < MOST_SERIES, "whoever builds a chart draws no more series than that"
        styles.append((LIGHT[SERIES[used]], MARKERS[used]))
        used += 1
    return styles
