"""prove.py on a CPU: budgets, failures, nulls, and the page that comes of it."""

import json
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import pytest
import torch
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3DraftHead

GPU = Path(__file__).parents[2] / "recipes" / "gpu"
sys.path.insert(0, str(GPU))

import cells  # noqa: E402
import prove  # noqa: E402
import record  # noqa: E402
import selfspec  # noqa: E402
import smoke  # noqa: E402
import speed  # noqa: E402
import training  # noqa: E402
from models import SHAPES, chance_of  # noqa: E402
from prompts import cache_bytes  # noqa: E402

RUN = {"stage": "run", "date": "2026-01-02", "minutes": 15.0, "rehearsal": False}
FACTS = {"python": "3.11", "torch": "2.11", "transformers": "5.17", "cuda": "13.0", "card": "H100"}
CELL = {"stage": "a", "name": "head, eager", "result": {"ok": True, "same": 1.0}, "why": None}
NULL = {"stage": "a", "name": "head, compiled", "result": None, "why": "time over"}
END = {"stage": "a", "ended": "time over", "seconds": 60.0, "why": None}
WHOLE = [RUN, {"stage": "a", "planned": ["head, eager", "head, compiled"]} | FACTS, CELL, NULL, END]


def written(records, folder):
    """A file of records."""
    file = folder / "records.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in records))
    return file


def rehearsed(folder, *flags):
    """The records of a rehearsal."""
    command = [sys.executable, GPU / "prove.py", "--rehearse", "--output_dir", folder, *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return cells.read_records(folder / "records.jsonl")


@pytest.fixture
def setting(tmp_path):
    return cells.Setting(torch.device("cpu"), True, 60.0, tmp_path)


@pytest.fixture
def run(setting, tmp_path):
    """run(cells) measures them, and gives their records by name."""

    def measure(chosen):
        file = tmp_path / "records.jsonl"
        cells.run_cells(chosen, cells.Records(file, "x"), {})
        return {line["name"]: line for line in cells.read_records(file) if "name" in line}

    return measure


def test_a_cell_that_fails_is_null_and_takes_no_other_along(run):
    def fail():
        raise RuntimeError("out of luck")

    found = run([cells.Cell("bad", fail), cells.Cell("good", lambda: {"ms": 1.0})])
    assert found["bad"]["result"] is None
    assert found["bad"]["why"] == "RuntimeError: out of luck"
    assert found["good"]["result"] == {"ms": 1.0}


def test_what_was_planned_and_never_measured_is_found():
    lines = [{"stage": "a", "planned": ["x", "y"]}, {"stage": "a", "name": "x", "result": {}}]
    assert cells.missing(lines, "a") == ["y"]


def test_a_line_that_was_cut_off_does_not_count(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text('{"stage": "a"}\n{"stage": "b", "na')
    assert cells.read_records(file) == [{"stage": "a"}]
    prove.close_last_line(file)
    assert file.read_text() == '{"stage": "a"}\n'


def asked(folder, *stages):
    """The arguments of a rehearsal of some stages."""
    return Namespace(output_dir=folder, rehearse=True, stages=list(stages), minutes=0.05)


HANGS = """
import json, sys, time
stage = sys.argv[sys.argv.index("--only") + 1]
with open(sys.argv[1], "a") as file:
    file.write(json.dumps({"stage": stage, "planned": ["x", "y"]}) + "\\n")
    file.write(json.dumps({"stage": stage, "name": "x", "result": {}, "why": None}) + "\\n")
    file.write('{"stage": "d", "na')
    file.flush()
    if stage == "d":
        time.sleep(60)
    sys.exit(f"stage {stage} is unwell")
"""


def test_a_stage_that_hangs_or_fails_leaves_nulls_and_takes_no_other_along(tmp_path, monkeypatch):
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.setattr(prove, "__file__", str(tmp_path / "hangs.py"))
    file = tmp_path / "out" / "records.jsonl"
    monkeypatch.setattr(sys, "argv", ["prove.py", str(file)])
    prove.prove(asked(tmp_path / "out", "c", "d"))
    records = cells.read_records(file)
    ended = {line["stage"]: line["ended"] for line in records if "ended" in line}
    assert ended == dict.fromkeys("abe", "not run") | {"c": "failed with code 1", "d": "time over"}
    missed = [line for line in records if line.get("name") == "y"]
    assert [(line["result"], line["why"]) for line in missed] == [
        (None, "failed with code 1"),
        (None, "time over"),
    ]
    (failed,) = [line for line in records if line.get("ended") == "failed with code 1"]
    assert failed["why"].strip() == "stage c is unwell"


def test_records_of_an_earlier_run_are_not_touched(tmp_path):
    file = written(WHOLE, tmp_path)
    before = file.read_text()
    with pytest.raises(ValueError, match="take another --output_dir"):
        prove.prove(asked(tmp_path, "a"))
    assert file.read_text() == before


def test_an_unknown_stage_is_refused():
    with pytest.raises(ArgumentTypeError, match="no stage 'z'"):
        prove.stage_list("a,z")


def test_a_page_has_the_figures_and_nulls_for_the_rest(tmp_path):
    path = record.record(written(WHOLE, tmp_path), tmp_path)
    text = path.read_text()
    assert path.name == "2026-01-02-h100.md"
    assert "| head, eager | yes | 1 |" in text
    assert "| head, compiled | null | time over |" in text
    assert text.count("Ended: null") == 4  # of stages without a record
    assert max(map(len, text.splitlines())) <= 100


def test_a_page_is_not_overwritten(tmp_path):
    file = written(WHOLE, tmp_path)
    record.record(file, tmp_path)
    with pytest.raises(ValueError, match="not overwritten"):
        record.record(file, tmp_path)


@pytest.mark.parametrize(
    "records, said",
    [
        ([RUN | {"rehearsal": True}, *WHOLE[1:]], "a rehearsal's records"),
        ([RUN, CELL], "name 0 cards"),
        ([*WHOLE, FACTS | {"stage": "b", "planned": [], "card": "H200"}], "name 2 cards"),
    ],
    ids=["rehearsal", "no card", "two cards"],
)
def test_records_that_prove_nothing_make_no_page(records, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        record.record(written(records, tmp_path), tmp_path)
    assert list(tmp_path.glob("*.md")) == []


def test_tau_is_what_its_chance_makes():
    assert chance_of(1.75, 2) == pytest.approx(0.5)  # 1 + 0.5 + 0.25
    with pytest.raises(ValueError, match="1 to 5 tokens a round, not 6"):
        chance_of(6.0, 4)


def test_the_keys_of_8b_take_as_much_as_llama_3s():
    assert cache_bytes(SHAPES["8B"], 1, 1) == 131072


def test_a_path_is_compared_with_plain_decoding(setting, run):
    (eager,) = [
        cell
        for cell in smoke.cells(setting)
        if cell.name == "itself, eager, float32, sdpa, batch 8, greedy"
    ]
    found = run([eager])[eager.name]["result"]
    assert found["ok"] is True
    assert found["tau"] > 3


def test_acceptance_is_what_was_set(setting, run):
    (cell,) = [
        cell
        for cell in speed.cells(setting)
        if cell.name.startswith("toy, batch 2") and "eager" in cell.name
    ]
    found = run([cell])[cell.name]["result"]
    assert "acceptance set by hand" in cell.name
    assert found["tokens_round"] == pytest.approx(found["tau_set_by_hand"], abs=1)
    assert found["gpu_waits"] is None  # there is no GPU


def test_every_cell_whose_acceptance_is_set_says_so(setting):
    drafted = [cell.name for cell in speed.cells(setting) if "tau" in cell.name]
    drafted += [cell.name for cell in selfspec.cells(setting) if "itself" in cell.name]
    assert len(drafted) == 20
    assert all("acceptance set by hand" in name for name in drafted)


def test_self_speculation_and_the_step_are_measured(setting, run):
    chosen = [cell for cell in selfspec.cells(setting) if "gamma 2, eager" in cell.name]
    chosen += training.cells(setting)[:1]
    first, step = [line["result"] for line in run(chosen).values()]
    assert 1 < first["tokens_round"] <= 3
    assert 0 < step["share_of_products"] < 2
    assert step["peak_GB"] is None


def test_a_head_in_shards_opens(tmp_path):
    head = tiny_head(tiny_target(dtype=torch.float32))
    head.save_pretrained(tmp_path, max_shard_size=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    opened = Eagle3DraftHead.from_pretrained(tmp_path)
    assert torch.equal(opened.lm_head.weight, head.lm_head.weight)
    assert torch.equal(opened.fc.weight, head.fc.weight)


@pytest.mark.slow
def test_every_stage_is_rehearsed_to_its_end(tmp_path):
    records = rehearsed(tmp_path / "out", "--minutes", "20")
    ended = {line["stage"]: line["ended"] for line in records if "ended" in line}
    assert ended == dict.fromkeys("abecd", "done")
    whys = {line["why"] for line in records if line.get("name") and line["result"] is None}
    needs_gpu = "exist on a CUDA GPU alone"
    assert all(needs_gpu in why or "flash_attn is not installed" in why for why in whys)
    assert (tmp_path / "out" / "e" / "head" / "config.json").is_file()
