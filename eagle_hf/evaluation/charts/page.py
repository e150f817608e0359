"""The report as one HTML page that needs nothing else, and its charts as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from eagle_hf.evaluation.charts.building import build_charts
from eagle_hf.evaluation.charts.canvas import NARROW, PICTURES, WIDE, Canvas
from eagle_hf.evaluation.charts.chart import Absent, Chart, by_needs
from eagle_hf.evaluation.charts.headline import headline
from eagle_hf.evaluation.charts.sources import Sources
from eagle_hf.evaluation.charts.theme import DARK, LIGHT, css_variables

FOLDER = Path(__file__).parent
TEMPLATE = "report.html.jinja"
PRINTED_RULES = "report.css"
SCRIPT = "report.js"


@dataclass(frozen=True)
class Drawn:
    """A chart with its two drawings, for the template."""

    chart: Chart
    wide: Markup
    narrow: Markup


def report_page(sources: Sources, title: str) -> str:
    """Make the page.

    Args:
        sources: what was read.
        title: of the page.

    Returns:
        HTML that loads nothing: its security policy forbids it.

    Raises:
        ValueError: not a single chart has its data, or matplotlib is missing.
    """
    charts, absent = build_charts(sources)
    _check_any(charts, absent)
    drawn = []
    for chart in charts:
        label = f"{chart.title}. {chart.caption} The numbers are in the table below."
        wide = Canvas(chart, WIDE).svg(f"{chart.name}-wide", label)
        narrow = Canvas(chart, NARROW).svg(f"{chart.name}-narrow", label)
        drawn.append(Drawn(chart, Markup(wide), Markup(narrow)))
    return (
        _templates()
        .get_template(TEMPLATE)
        .render(
            title=title,
            drawn=drawn,
            absent=[(titles, _with_code(needs)) for titles, needs in by_needs(absent)],
            figures=headline(sources),
            sources=sources,
            light=Markup(css_variables(LIGHT)),
            dark=Markup(css_variables(DARK)),
            rules=Markup((FOLDER / PRINTED_RULES).read_text(encoding="utf-8")),
            script=Markup((FOLDER / SCRIPT).read_text(encoding="utf-8")),
        )
    )


def write_pictures(folder: str | Path, sources: Sources) -> list[Path]:
    """Write every chart as PNG and SVG, light, with its title.

    Args:
        folder: where; made if it is new.
        sources: what was read.

    Returns:
        The files.

    Raises:
        ValueError: not a single chart has its data, or matplotlib is missing.
    """
    charts, absent = build_charts(sources)
    _check_any(charts, absent)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for chart in charts:
        canvas = Canvas(chart, WIDE, with_title=True)
        for ending in PICTURES:
            file = folder / f"{chart.name}.{ending}"
            canvas.save(file)
            files.append(file)
    return files


def _check_any(charts: Sequence[Chart], absent: Sequence[Absent]) -> None:
    """Refuse a report without a chart."""
    if charts:
        return
    needs = "; ".join(f"{one.title}: {one.needs}" for one in absent)
    raise ValueError(f"the files have the data of no chart; what each needs: {needs}")


def _with_code(text: str) -> Markup:
    """A text whose parts between backticks are code."""
    parts = []
    for index, part in enumerate(text.split("`")):
        parts.append(Markup("<code>{}</code>").format(part) if index % 2 else escape(part))
    return Markup("").join(parts)


@cache
def _templates() -> Environment:
    """The folder's templates; everything put into them is escaped."""
    return Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
