"""The page of the report says how every chart of the three articles is made; so it is."""

import re

import pytest
import report_data
from pages import DOCS, all_pages
from test_commands import shell_commands

from eagle_hf.cli import parser
from eagle_hf.evaluation.charts import read_sources
from eagle_hf.evaluation.charts.building import build_charts

PAGE = DOCS / "report.md"
# By article, what its charts show; see the articles themselves.
NEEDED = {
    "EAGLE-3": {"time-per-token", "throughput", "served-categories", "time-to-first-token"},
    "long contexts": {
        "speed-by-batch",
        "roofline-1",
        "limits-1",
        "operations-1",
        "drafts-by-length",
        "drafts-by-length-plan",
        "drafts-roofline-1",
    },
    "two models": {
        "throughput",
        "generation-time",
        "time-to-first-token",
        "pairs-accepted",
        "pairs-speed",
    },
}
# What each section measures with, and of which charts.
MEASURED_BY = {
    "two-servers": "bench-serving",
    "methods": "evaluate",
    "a-plan": "plan",
    "a-roofline": "roofline",
    "pairs": "pair",
}


def twins() -> list[list[str]]:
    """The cells of every row of the table."""
    text = PAGE.read_text()
    table = text.partition("<!-- twins -->")[2].partition("<!-- end of twins -->")[0]
    rows = [line.strip("|").split("|") for line in table.strip().splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict:
    """The charts of files of every kind, by their names."""
    folder = report_data.write_all(tmp_path_factory.mktemp("files"))
    charts, absent = build_charts(read_sources([folder]))
    assert absent == []
    return {chart.name: chart for chart in charts}


def test_every_chart_of_the_articles_is_in_the_table():
    listed: dict[str, set[str]] = {}
    for article, _, name, _, _ in twins():
        listed.setdefault(article, set()).add(name.strip("`"))
    for article, names in NEEDED.items():
        assert names <= listed[article], article
    assert set(listed) == set(NEEDED)


@pytest.mark.parametrize("row", twins(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_a_twin_is_drawn_and_is_as_real_as_the_table_says(drawn, row):
    _, _, name, _, numbers = row
    chart = drawn[name.strip("`")]
    assert chart.is_simulated == {"real": False, "simulated": True}[numbers]
    assert chart.table.rows


@pytest.mark.parametrize("row", twins(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_a_twin_is_measured_by_a_command_that_exists(row):
    anchor = re.fullmatch(r"\[[\w ]+\]\(#([\w-]+)\)", row[3])[1]
    heading = anchor.replace("-", " ").capitalize()
    section = PAGE.read_text().partition(f"\n### {heading}\n")[2]
    section = re.split(r"\n##", section)[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    (words,) = shell_commands(block)
    assert words[:2] == ["eagle-hf", MEASURED_BY[anchor]]
    options = parser().parse_args(words[1:])
    # what it writes is below the folder that the report is given
    folder = getattr(options, "out", None) or options.output_dir
    assert str(folder).startswith("outputs/")


def test_the_page_is_among_those_whose_commands_are_parsed():
    assert "docs/report.md" in [page.name for page in all_pages()]
