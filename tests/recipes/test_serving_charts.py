"""Servers are started and asked one after the other; one that fails does not stop the others.

Small programs stand in the place of the engines' Python.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

ROOT = Path(__file__).parents[2]
STEADY = """
import json, sys, time
sys.path.insert(0, TESTS)
from streaming_server import Script, StreamingServer
words = sys.argv
port = int(words[words.index("--port") + 1])
drafts = None
if "--speculative-config" in words:
    settings = json.loads(words[words.index("--speculative-config") + 1])
    assert settings["num_speculative_tokens"] == 2
    drafts = {"acceptance_histogram": [1, 0, 1], "num_draft_tokens": 4}
with StreamingServer(lambda number, body: Script(drafts=drafts), port=port):
    time.sleep(600)
"""
BROKEN = "import sys; sys.exit(3)"

pytestmark = pytest.mark.slow


def place(environments: Path, engine: str, program: str) -> None:
    """Put a program where an engine's Python would be."""
    python = environments / engine / "bin" / "python"
    python.parent.mkdir(parents=True)
    script = python.with_name("program.py")
    script.write_text(program.replace("TESTS", repr(str(ROOT / "tests"))))
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory) -> dict:
    """metrics.json of a run over a steady engine and a broken one."""
    folder = tmp_path_factory.mktemp("charts")
    target = tiny_target(dtype=torch.float32)
    target.save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    tiny_head(target).save_pretrained(folder / "head")
    place(folder / "environments", "vllm", STEADY)
    place(folder / "environments", "llamacpp", BROKEN)
    flags = (
        "--target target --head head --output_dir out --environments environments "
        "--prompts 1 --concurrency 1 2 --chain 2 --threads 1"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "recipes" / "serving_charts.py", *flags.split()],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    serving = json.loads((folder / "out" / "serving.json").read_text())
    assert serving["kind"] == "serving"
    alone = [run for run in serving["runs"] if run["category"] != "all" and run["output_tokens_s"]]
    assert {run["category"] for run in alone} == {"chat", "code", "math"}
    assert {run["arrival"]["concurrency"] for run in alone} == {1}
    written = json.loads((folder / "out" / "metrics.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == written
    return written


def test_every_server_has_a_row_for_each_concurrency(metrics):
    found = [(row["label"], row["concurrency"]) for row in metrics["runs"]]
    assert found == [
        ("vLLM plain", 1),
        ("vLLM plain", 2),
        ("vLLM with head", 1),
        ("vLLM with head", 2),
    ]
    for row in metrics["runs"]:
        assert row["output_tokens_s"] > 0
        assert row["tau"] == (2.0 if "head" in row["label"] else None)


def test_a_server_that_ends_is_named(metrics):
    assert set(metrics["failures"]) == {"llama.cpp plain", "llama.cpp with head"}
    assert "ended with status 3" in metrics["failures"]["llama.cpp plain"]
