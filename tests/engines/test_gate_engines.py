"""`eagle-hf check --serve` with the real engines: what is learnt by heart is accepted whole."""

import json
import sys
from pathlib import Path

import pytest
from driving import need
from environments import program
from ours import Case

from eagle_hf.cli import main

pytestmark = pytest.mark.engine

EXPORTER = Path(__file__).parents[1] / "hub" / "gate" / "breaking_exporter.py"


def check(engine: str, case: Case, keep: Path, *flags: str) -> tuple[int, dict]:
    """The exit status, and gate.json, of the head on a short suite."""
    need(engine)
    command = ["check", str(case.head_folder), "--target", str(case.target_folder)]
    command += ["--serve", engine, "--engine-python", str(program(engine)), "--keep", str(keep)]
    command += ["--per-category", "1", "--max-new-tokens", "48", *flags]
    if engine == "vllm":
        command += ["--engine-options=--max-model-len 1024"]
    status = main(command)
    return status, json.loads((keep / "gate.json").read_text())


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_an_engine_accepts_whole_what_was_learnt_and_the_head_as_here(engine, smollm2, tmp_path):
    status, gate = check(engine, smollm2, tmp_path / "gate")
    assert (status, gate["verdict"]) == (0, "ok")
    for row in gate["learnt"]["rows"] + gate["own"]["rows"]:
        assert row["same_text"]
        assert row["rounds"] == row["rounds_here"]


def test_llamacpp_shows_an_export_with_shifted_layers(smollm2, tmp_path):
    exporter = f"{sys.executable} {EXPORTER} layers {{head}} {{out}}"
    status, gate = check("llamacpp", smollm2, tmp_path / "gate", "--export-with", exporter)
    assert (status, gate["verdict"]) == (1, "broken export")
    learnt = gate["learnt"]["rows"]
    assert sum(row["tokens"] - 1 - row["rounds"] for row in learnt) == 0
    assert any("aux layers [3, 16, 28]" in reason for reason in gate["own"]["reasons"])
