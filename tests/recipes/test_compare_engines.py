"""Engines are compared: each row is a program, one that fails does not stop the others.

Small programs stand in the place of the other engines' Python. Our own is asked in this process.
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import load_target

RECIPES = Path(__file__).parents[2] / "recipes"
STEADY = """
import json, sys
settings = json.load(open(sys.argv[2]))
print(json.dumps({"versions": {"steady": "1.0"}}), flush=True)
for line in sys.stdin:
    prompt = json.loads(line)["prompt"]
    fast = settings["head"] is not None
    answer = {
        "text": prompt,
        "tokens": 11,
        "decode_seconds": 0.5 if fast else 1.0,
        "seconds": 2.0,
        "accepted": settings["drafts"]["depth"] if fast else None,
    }
    print(json.dumps(answer), flush=True)
"""
BROKEN = """
import json, sys
settings = json.load(open(sys.argv[2]))
print(json.dumps({"versions": {}}), flush=True)
if settings["dtype"] == "float32":
    raise RuntimeError("out of | patience")
for line in sys.stdin:
    answer = {"text": [2], "tokens": 1, "decode_seconds": 0.0, "seconds": 1.0, "accepted": None}
    print(json.dumps(answer), flush=True)
"""


def place(environments: Path, engine: str, program: str) -> None:
    """Put a program where an engine's Python would be."""
    python = environments / engine / "bin" / "python"
    python.parent.mkdir(parents=True)
    script = python.with_name("program.py")
    script.write_text(program)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of a tiny target and of a head."""
    folder = tmp_path_factory.mktemp("compared")
    target = tiny_target(dtype=torch.float32)
    target.save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    tiny_head(target).save_pretrained(folder / "head")
    return folder


@pytest.fixture(scope="module")
def compared(models):
    """The folder of a run over a steady engine, a broken one and a missing one."""
    place(models / "environments", "llamacpp", STEADY)
    place(models / "environments", "vllm", BROKEN)
    flags = (
        "--target target --head head --output_dir out --environments environments "
        "--engines llamacpp openvino vllm --prompts 1 --repeats 2 --threads 1"
    )
    done = subprocess.run(
        [sys.executable, RECIPES / "compare_engines.py", *flags.split()],
        cwd=models,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return models / "out"


@pytest.fixture(scope="module")
def rows(compared):
    """The rows of metrics.json by engine, dtype and drafts."""
    found = {}
    for row in json.loads((compared / "metrics.json").read_text())["rows"]:
        found[row["engine"], row["dtype"], row["drafts"]] = row
    return found


def test_our_engine_answers_as_generate_does(models, monkeypatch):
    monkeypatch.syspath_prepend(RECIPES / "comparing")
    engine = import_module("run_eagle_hf")
    settings = {
        "target": str(models / "target"),
        "head": None,
        "dtype": "float32",
        "mode": "eager",
        "threads": 1,
        "new_tokens": 12,
        "stop": [2],
    }
    prompt = [5, 6, 7, 8]
    target, _ = load_target(models / "target", dtype=torch.float32)
    expected = target.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    for head in (None, str(models / "head")):
        answer = engine.open_engine(settings | {"head": head})(prompt)
        assert answer.text == expected[0, 4:].tolist()
        assert answer.tokens == 12
        assert 0 < answer.decode_seconds < answer.seconds
        assert (answer.accepted is None) == (head is None)


def test_speeds_are_tokens_after_the_first_by_their_seconds(rows):
    plain = rows["llamacpp", "float32", "plain"]
    drafted = rows["llamacpp", "float32", "chain of 3"]
    assert plain["tokens_s"] == 10
    assert drafted["tokens_s"] == 20
    assert drafted["over_plain"] == 2
    assert drafted["seconds"] == 2
    assert drafted["tau"] == pytest.approx(10 / 7)  # ten tokens, three of them accepted drafts
    assert drafted["versions"] == {"steady": "1.0"}


def test_plain_generate_in_its_faster_dtype_is_the_common_measure(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    rows = import_module("comparing.rows")

    def row(engine, dtype, mode, drafts, seconds):
        answer = {"tokens": 11, "decode_seconds": seconds, "seconds": 9, "accepted": 0, "text": ""}
        return rows.Row(rows.Setup(engine, dtype, mode), drafts, [[answer]])

    slow = row("eagle_hf", "float32", "eager", "plain", 2.0)
    fast = row("eagle_hf", "bfloat16", "eager", "plain", 1.0)
    compiled = row("eagle_hf", "float32", "compiled", "plain", 0.5)
    drafted = row("eagle_hf", "bfloat16", "eager", "tree by machine", 0.25)
    assert rows.fastest_generate([slow, fast, compiled, drafted]) is fast
    assert rows.summarise(drafted, fast, fast)["over_generate"] == 4
    assert rows.fastest_generate([compiled, drafted]) is None


def test_an_engine_that_fails_says_why_and_the_others_go_on(rows):
    assert "cannot be started" in rows["openvino", "float32", "plain"]["failure"]
    assert rows["vllm", "float32", "plain"]["failure"] == "RuntimeError: out of | patience"
    assert "nothing to time" in rows["vllm", "bfloat16", "plain"]["failure"]
    assert "GGUF" in rows["llamacpp", "quantised", "plain"]["failure"]
    assert rows["llamacpp", "float16", "plain"]["failure"] is None


def test_the_table_has_a_line_for_every_row(compared, rows):
    lines = (compared / "table.md").read_text().splitlines()
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {11}
    assert any("failed: RuntimeError: out of / patience" in line for line in lines)


def test_single_timings_are_kept(compared, rows):
    timings = []
    for line in (compared / "timings.jsonl").read_text().splitlines():
        timings.append(json.loads(line))
    measured = [row for row in rows.values() if row["failure"] is None]
    assert len(timings) == 2 * 3 * len(measured)  # repeats, prompts
    assert timings[0]["engine"] == "llamacpp"
    assert timings[0]["decode_seconds"] == 1
