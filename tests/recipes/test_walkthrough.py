"""recipes/walkthrough.ipynb: clean in git, public API alone, and it runs from end to end."""

import ast
import json
import os
from importlib import import_module
from pathlib import Path

import pytest
from test_floors import PUBLIC

from eagle_hf import Eagle3DraftHead

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "recipes" / "walkthrough.ipynb"
SMALL = """
FOLDER = "made"
PROMPTS = 3
ANSWER_TOKENS = 16
MINUTES = 0.1
MEASURED = 1
MEASURED_TOKENS = 8
"""


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def source(cell: dict) -> str:
    """What stands in a cell."""
    return "".join(cell["source"])


def test_no_output_is_kept_in_git(cells):
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], cell["id"]
            assert cell["execution_count"] is None, cell["id"]
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_one_cell_at_the_top_sets_every_size(cells):
    sizes = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert sizes == code[:1]
    names = {statement.targets[0].id for statement in ast.parse(source(sizes[0])).body}
    assert {statement.targets[0].id for statement in ast.parse(SMALL).body} == names - {"PUSH_TO"}


def test_the_notebook_uses_the_public_api_alone(cells):
    rooms = {"eagle_hf", "eagle_hf.cli"} | {f"eagle_hf.{room}" for room in PUBLIC}
    used = set()
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("eagle_hf"):
                assert node.module in rooms
                names = {alias.name for alias in node.names}
                assert names <= set(import_module(node.module).__all__)
                used |= names
    assert {"Eagle3Trainer", "write_responses", "files_to_push", "main"} <= used


def pictures(cell) -> int:
    """How many charts a cell has drawn."""
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


def printed(cell) -> str:
    """What a cell has printed."""
    return "".join(output.get("text", "") for output in cell["outputs"])


@pytest.mark.slow
def test_the_notebook_runs_from_prompts_to_charts(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    # 1) small sizes behind those of the notebook
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    ids = [cell["id"] for cell in notebook.cells]
    notebook.cells.insert(ids.index("sizes") + 1, nbformat.v4.new_code_cell(SMALL))

    # 2) the whole of it, in a folder of its own
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    by_id = {cell["id"]: cell for cell in notebook.cells}

    # 3) a head that opens, rows of every method, charts, and nothing pushed
    assert [pictures(by_id[name]) for name in ("accuracy", "speed", "alpha")] == [1, 1, 1]
    assert "the same 7 tokens in" in printed(by_id["drafting"])
    metrics = json.loads((tmp_path / "made" / "measured" / "metrics.json").read_text())
    methods = {row["method"] for row in metrics["rows"]}
    assert methods == {"plain", "loop", "lookup", "head", "head@chain:4:1:4"}
    assert Eagle3DraftHead.from_pretrained(tmp_path / "made" / "head").config.vocab_size == 49152
    assert "custom_generate/generate.py" in printed(by_id["pushing"])
    assert "nothing was pushed" in printed(by_id["pushing"])
