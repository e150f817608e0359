"""The pages of docs/benchmarks are what their script writes from the kept measurements."""

import json

import pytest
import torch
from kept_runs import methods, serving
from pages import DOCS, ROOT, open_script
from tiny import tiny_target, word_tokenizer

from eagle_hf.cli import main
from eagle_hf.hub import results_table

FOLDER = DOCS / "benchmarks"
CARD = ROOT / "model_cards" / "smollm2-135m-instruct-eagle3"
INDEX = "# Benchmarks\n\n<!-- kept: written by build.py -->\n<!-- end of kept -->\n\nBy hand.\n"
SITE = """nav:
      - Benchmarks:
          - benchmarks/index.md
          # kept: written by docs/benchmarks/build.py
          # end of kept
  - Home: index.md
"""


@pytest.fixture(scope="module")
def build():
    return open_script(FOLDER / "build.py")


@pytest.fixture
def folder(tmp_path):
    """An empty folder of benchmarks."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "index.md").write_text(INDEX)
    return tmp_path / "benchmarks"


def write(folder, name, content):
    """A folder that a measuring command has written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


# the repository's own


def test_the_pages_are_what_the_script_writes(build):
    written = build.pages()
    assert len(written) > 2
    for file, text in written.items():
        assert file.read_text() == text, f"run: python docs/benchmarks/build.py ({file})"


def test_every_page_of_the_folder_is_a_kept_one(build):
    pages = {path.stem for path in FOLDER.glob("*.md")}
    assert pages == {"index", *build.read_kept(FOLDER)}


def test_the_reference_heads_page_holds_its_cards_figures(build):
    card = json.loads((CARD / "metrics.json").read_text())
    kept = json.loads((FOLDER / "kept" / "reference-head" / "metrics.json").read_text())
    del kept["kept"]
    assert kept == card
    table = results_table(card, "dynamic:4:4:12")
    assert table in (FOLDER / "reference-head.md").read_text()


# keeping


def test_methods_are_kept_with_the_command_that_they_name(build, folder, tmp_path):
    content = methods(head="head", per_category=3, out="outputs/methods")
    source = write(tmp_path / "run", "metrics.json", content)
    file = build.keep(source, "laptop-2026", day="2026-11-28", folder=folder)
    kept = json.loads(file.read_text())
    assert kept.pop("kept") == {
        "title": "Laptop 2026",
        "command": "eagle-hf evaluate --target smollm2 --head head --per-category 3 "
        "--out outputs/methods --methods lookup head",
        "date": "2026-11-28",
    }
    assert kept == content


def test_one_command_writes_the_page_the_list_and_the_navigation(build, folder, tmp_path):
    (tmp_path / "mkdocs.yml").write_text(SITE)
    source = write(tmp_path / "run", "metrics.json", methods(head="head"))
    build.keep(source, "laptop", day="2026-11-28", folder=folder)
    texts = build.pages(folder, tmp_path / "mkdocs.yml")
    assert set(texts) == {folder / "laptop.md", folder / "index.md", tmp_path / "mkdocs.yml"}
    line = "| [Laptop](laptop.md) | methods side by side | a CPU, 2 cores | 28 November 2026 |"
    assert line in texts[folder / "index.md"]
    assert texts[folder / "index.md"].endswith("<!-- end of kept -->\n\nBy hand.\n")
    assert "          - Laptop: benchmarks/laptop.md\n" in texts[tmp_path / "mkdocs.yml"]


def test_paths_of_one_machine_are_not_kept(build, folder, tmp_path):
    content = methods(head=str(tmp_path / "head"), out=str(ROOT / "outputs" / "run"))
    content["asked"]["route"] = "/v1/completions"  # no path of this machine
    source = write(tmp_path / "run", "metrics.json", content)
    text = build.keep(source, "laptop", folder=folder).read_text()
    assert str(tmp_path) not in text
    assert str(ROOT) not in text
    kept = json.loads(text)
    assert kept["asked"]["head"] == "head"
    assert kept["asked"]["out"] == "outputs/run"
    assert kept["asked"]["route"] == "/v1/completions"


def test_a_name_is_kept_once_unless_told_otherwise(build, folder, tmp_path):
    source = write(tmp_path / "run", "metrics.json", methods(head="head"))
    build.keep(source, "laptop", folder=folder)
    with pytest.raises(ValueError, match="laptop is kept already; take another name, or add"):
        build.keep(source, "laptop", folder=folder)
    served = write(tmp_path / "served", "serving.json", serving())
    build.keep(served, "laptop", command="eagle-hf", replace=True, folder=folder)
    assert [path.name for path in (folder / "kept" / "laptop").iterdir()] == ["serving.json"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds neither of metrics.json and serving.json"),
        ({"metrics.json": {}, "serving.json": {}}, "holds metrics.json and serving.json"),
        ({"metrics.json": {"loss": 1.0}}, "the file holds loss .*; kept are metrics.json of"),
        ({"metrics.json": {"schema": 7, "rows": []}}, "'schema': 7"),
        ({"serving.json": serving()}, "does not say by which command .* add --command"),
    ],
    ids=["nothing", "two", "another", "newer", "no command"],
)
def test_what_cannot_be_shown_is_not_kept(build, folder, tmp_path, files, message):
    (tmp_path / "run").mkdir()
    for name, content in files.items():
        write(tmp_path / "run", name, content)
    with pytest.raises(ValueError, match=message):
        build.keep(tmp_path / "run", "laptop", folder=folder)
    assert not (folder / "kept").exists()


@pytest.mark.parametrize("name", ["index", "a/b", "../a", ""])
def test_a_name_that_is_no_page_is_refused(build, folder, tmp_path, name):
    source = write(tmp_path / "run", "metrics.json", methods(head="head"))
    with pytest.raises(ValueError, match="take letters, digits and -, but not index"):
        build.keep(source, name, folder=folder)


# pages


def page_of(build, content, command="eagle-hf evaluate"):
    about = {"title": "A run", "command": command, "date": "2026-11-05"}
    return build.page("run", {"kept": about} | content)


def test_a_page_of_methods_shows_speed_acceptance_phases_and_failures(build):
    page = page_of(build, methods(head="head"))
    for line in (
        "# A run",
        "Measured on 5 November 2026.",
        "- device: a CPU, 2 cores",
        "- eagle hf: 0.1.0",
        "## Greedy, batch 1",
        "| plain | 3 |  |  | 20.0 (19.0-21.0) | 1.00x (0.80-1.25) |  |  | 100% |",
        "| head | 3 | 2.00 (1.50-2.50) | 1.90 | 30.0 (29.0-31.0) | 1.50x (1.20-1.88) "
        "| 1.25x (1.00-1.50) | 1.40x | 100% (2 errors) |",
        "| method | chat | code |\n|---|---|---|\n| plain | 1.00x |  |\n| head | 1.50x |  |",
        "| head | 0.60 | 0.40 |",
        "| head | 50.0 | 4.0 |",
        "- `early-exit:9`: it has 4 layers",
    ):
        assert line in page
    assert "cpu features" not in page  # not known


def test_a_page_of_a_real_run_is_made(build, folder, tmp_path, monkeypatch):
    tiny_target(dtype=torch.float32, eos_token_id=2).save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    (tmp_path / "asked.jsonl").write_text(json.dumps({"turns": ["w5 w6"], "category": "mine"}))
    monkeypatch.chdir(tmp_path)
    command = (
        "eagle-hf evaluate --target target --categories asked.jsonl --max-new-tokens 8 "
        "--dtype float32 --out out --methods lookup itself@chain:2:1:2 early-exit:9"
    )
    assert main(command.split()[1:]) == 0
    file = build.keep(tmp_path / "out", "tiny", folder=folder)
    content = json.loads(file.read_text())
    assert sorted(content["kept"]["command"].split()) == sorted(command.split())
    page = build.page("tiny", content)
    for method in ("plain", "loop", "lookup", "itself@chain:2:1:2"):
        assert f"| {method} | 1 |" in page
    assert "- `early-exit:9`: " in page


def test_a_page_of_servers_shows_every_run_and_what_its_words_mean(build):
    page = page_of(build, serving(), command="eagle-hf bench-serving")
    latencies = "51.2 (80.0) | 10.0 (12.5) |  | 900.0 (1000.0) | 123.4"
    for line in (
        "- vllm: 1.0",
        "## All",
        f"| with head | vllm | 4 at a time | 8 of 9 (1 disconnected) | {latencies} "
        "| 1.50 requests/s | 2.25 | 0.70 |",
        f"| plain (by guidellm) | vllm |  | 8 of 8 (run interrupted) | {latencies} |  |  |  |",
        "- **goodput**: requests a second that keep every limit",
    ):
        assert line in page


def test_long_commands_are_broken_where_a_shell_joins_them(build):
    words = ["eagle-hf", "evaluate", *(f"--flag-{number}" for number in range(20)), "two words"]
    wrapped = build.wrap_command(build.shlex.join(words))
    assert max(map(len, wrapped.splitlines())) <= 100
    assert build.shlex.split(wrapped.replace("\\\n", " ")) == words
