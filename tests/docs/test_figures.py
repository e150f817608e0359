"""Figures of README and docs are those that were measured; pictures and trees are up to date."""

import json
import re

import pytest
from pages import DOCS, ROOT, Page, all_pages, open_script
from test_floors import FLOORS

CARD = ROOT / "model_cards" / "smollm2-135m-instruct-eagle3"
TREE = "dynamic:4:4:12"
README_LINES = 125
SOURCES = [*(ROOT / "eagle_hf").rglob("*.py")]


@pytest.fixture(scope="module")
def metrics():
    return json.loads((CARD / "metrics.json").read_text())


def measured(metrics: dict, dtype: str) -> dict:
    """The greedy results of the head's own tree in one dtype, by category."""
    for setting in metrics["settings"]:
        is_greedy = setting["temperature"] == 0.0
        if setting["dtype"] == dtype and setting["tree"] == TREE and is_greedy:
            return setting["results"]
    raise AssertionError(f"no greedy {dtype} results of {TREE}")


def test_the_picture_is_drawn_from_the_metrics():
    drawing = open_script(DOCS / "images" / "speed_by_category.py")
    assert drawing.PICTURE.read_text() == drawing.draw(drawing.read_bars())


def test_the_readmes_rows_are_the_measured_ones(metrics):
    readme = Page(ROOT / "README.md").text
    fast, exact = measured(metrics, "bfloat16"), measured(metrics, "float32")
    labels = {"chat": "chat (MT-Bench)", "code": "code (HumanEval)", "math": "maths (GSM8K)"}
    for category, label in labels.items():
        result = fast[category]
        low, high = result["tau_interval"]
        row = (
            f"| {label} | {result['tau']:.2f} ({low:.2f}-{high:.2f}) "
            f"| {result['speedup']:.2f}x | {exact[category]['identical']:.0%} |"
        )
        assert row in readme


def test_the_readme_fits_on_a_screen_and_a_half():
    assert len(Page(ROOT / "README.md").text.splitlines()) <= README_LINES


def test_the_file_tree_holds_the_files_that_exist():
    file_tree = open_script(DOCS / "file_tree.py")
    shown = file_tree.read_block(file_tree.PAGE.read_text())
    assert shown == file_tree.current_tree(), "run: python docs/file_tree.py --write"


def test_the_floors_are_those_that_imports_keep_to():
    documented = {}
    for line in (DOCS / "architecture.md").read_text().splitlines():
        row = re.fullmatch(r"\| (\d+) \| (.+) \|", line)
        if row:
            for room in re.findall(r"`(\w+)`", row[2]):
                documented[room] = int(row[1]) - 1
    documented.pop("recipes")  # outside the package
    assert documented == FLOORS


def test_the_drawing_of_slots_follows_its_rule():
    concepts = Page(DOCS / "concepts.md")
    drawing = next(block.code for block in concepts.blocks if "aux hidden states of" in block.code)
    rows = {}
    for line in drawing.splitlines():
        name, _, cells = line.partition("  ")
        rows[name] = cells.split()
    for slot in map(int, rows["slot"]):
        assert rows["aux hidden states of"][slot] == f"t{slot}"
        assert rows["embedding of"][slot] == f"t{slot + 1}"
        assert rows["predicts"][slot] == f"t{slot + 2}"


def test_messages_in_troubleshooting_are_those_of_the_package():
    words = " ".join(" ".join(path.read_text().split()) for path in SOURCES)
    joined = words.replace('" f"', "").replace('" "', "")
    for heading in Page(DOCS / "troubleshooting.md").headings:
        if heading.startswith('"'):
            assert heading.strip('"') in joined, heading


@pytest.mark.parametrize("page", all_pages(), ids=str)
def test_lines_of_prose_have_at_most_100_columns(page):
    for line in page.prose.splitlines():
        is_table = line.startswith("|")
        assert is_table or len(line) <= 100, f"{page.name}: {line}"
