"""The ablation recipe on a tiny target: equal settings but one, measured on the same prompts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_target, word_tokenizer

from eagle_hf import Eagle3DraftHead, load_target
from eagle_hf.data import capture_features, prepare_examples, template_sha256

RECIPE = Path(__file__).parents[2] / "recipes" / "ablations.py"


@pytest.fixture
def folder(tmp_path):
    """A tiny target, features of it, prompts, and three runs, one of which must fail."""
    tiny_target(dtype=torch.float32, eos_token_id=2).save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    target, tokenizer = load_target(str(tmp_path / "target"))
    rows = []
    for number in range(8):
        question = {"role": "user", "content": "w7"}
        answer = {"role": "assistant", "content": f"w{5 + number} w9 w4 w8"}
        rows.append({"id": str(number), "messages": [question, answer]})
    examples, _ = prepare_examples(target, tokenizer, rows, max_length=64)
    capture_features(
        target,
        examples,
        tmp_path / "features",
        layer_ids=[2, 3, 4],
        template_sha256=template_sha256(tokenizer),
        dtype="float32",
    )
    lines = []
    for number in range(4):
        prompt = {"id": str(number), "turns": [f"w{5 + number} w7"], "category": "chat"}
        lines.append(json.dumps(prompt) + "\n")
    (tmp_path / "asked.jsonl").write_text("".join(lines))
    train = dict(
        target="target",
        target_dtype="float32",
        features="features",
        draft_vocab_size=24,
        fill_by_rank=True,
        ttt_length=2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
    )
    runs = {"basis": {}, "fc-mean": {"start": "fc: mean"}, "broken": {"loss_type": "guess"}}
    config = dict(
        output_dir="out",
        jobs=2,
        max_steps=2,
        categories=["asked.jsonl"],
        max_new_tokens=8,
        train=train,
        runs=runs,
    )
    (tmp_path / "ablations.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return tmp_path


def ablate(folder):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, RECIPE, "--config", "ablations.yaml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def change_runs(folder, changes):
    """Change some runs of the configuration."""
    config = yaml.safe_load((folder / "ablations.yaml").read_text())
    config["runs"] |= changes
    (folder / "ablations.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def measured_rows(folder, name):
    """What a run's tau.json holds of each prompt."""
    return json.loads((folder / "out" / name / "tau.json").read_text())["rows"]


@pytest.mark.slow
def test_runs_are_compared_failures_named_and_nothing_is_done_twice(folder):
    # 1) three runs, one of which fails
    screen = ablate(folder)
    assert "broken: failed, see out/broken/train.log" in screen
    assert "loss_type is 'guess'" in (folder / "out/broken/train.log").read_text()
    assert "| basis | the basis | 2 |" in screen
    assert "| fc-mean | start fc: mean | 2 |" in screen
    assert (folder / "out" / "table.md").read_text() in screen
    rows = measured_rows(folder, "basis")
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert all(row["rounds"] for row in rows)

    # 2) the changed start
    start = Eagle3DraftHead.from_pretrained(folder / "out" / "fc-mean" / "start")
    shares = start.fc.weight[3, 3 :: start.config.hidden_size].tolist()
    assert shares == pytest.approx([1 / 3] * 3)

    # 3) corrected and repeated, with a trained head beside it
    basis_file = folder / "out" / "basis" / "tau.json"
    before = basis_file.stat().st_mtime_ns
    change_runs(folder, {"broken": {"loss_type": "log_alpha"}, "old": {"trained": "out/basis"}})
    screen = ablate(folder)
    assert "broken: done" in screen
    basis = [row["rounds"] for row in measured_rows(folder, "basis")]
    old = [row["rounds"] for row in measured_rows(folder, "old")]
    assert basis == old
    assert not (folder / "out" / "old" / "train.log").exists()
    assert basis_file.stat().st_mtime_ns == before
