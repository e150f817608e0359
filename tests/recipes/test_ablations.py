"""The ablation recipe on a tiny target: equal settings but one, measured on the same prompts, gone on with after a failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_target, word_tokenizer

from eagle_hf import (
    Eagle3DraftHead,
    capture_features,
    load_target,
    template_sha256,
    tokenize_conversations,
)

RECIPE = Path(__file__).parents[2] / "recipes" / "ablations.py"


@pytest.fixture
def folder(tmp_path):
    """A tiny target, features of it, prompts and a configuration of three runs, one of them impossible."""
    tiny_target(dtype=torch.float32, eos_token_id=2).save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    target, tokenizer = load_target(str(tmp_path / "target"))
    rows = [
        {
            "id": str(i),
            "messages": [
                {"role": "user", "content": "w7"},
                {"role": "assistant", "content": f"w{5 + i} w9 w4 w8"},
            ],
        }
        for i in range(8)
    ]
    examples, _ = tokenize_conversations(rows, tokenizer, eos_token_ids=[2], max_length=64)
    capture_features(
        target,
        examples,
        tmp_path / "features",
        layer_ids=[2, 3, 4],
        template_sha256=template_sha256(tokenizer),
        dtype="float32",
    )
    prompts = [{"id": str(i), "turns": [f"w{5 + i} w7"], "category": "chat"} for i in range(4)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
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


@pytest.mark.slow
def test_runs_are_compared_failures_named_and_nothing_is_done_twice(folder):
    out = ablate(folder)
    assert (
        "broken: failed, see out/broken/train.log" in out
        and "loss_type is 'guess'" in (folder / "out/broken/train.log").read_text()
    )
    assert "| basis | the basis | 2 |" in out and "| fc-mean | start fc: mean | 2 |" in out
    assert (folder / "out" / "table.md").read_text() in out
    rows = json.loads((folder / "out" / "basis" / "tau.json").read_text())["rows"]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"] and all(
        row["rounds"] for row in rows
    )
    start = Eagle3DraftHead.from_pretrained(folder / "out" / "fc-mean" / "start")
    assert start.fc.weight[3, 3 :: start.config.hidden_size].tolist() == pytest.approx([1 / 3] * 3)
    before = (folder / "out" / "basis" / "tau.json").stat().st_mtime_ns
    config = yaml.safe_load((folder / "ablations.yaml").read_text())
    config["runs"]["broken"] = {"loss_type": "log_alpha"}
    config["runs"]["old"] = {"trained": "out/basis"}
    (folder / "ablations.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    out = ablate(folder)
    basis, old = (
        json.loads((folder / "out" / name / "tau.json").read_text())["rows"]
        for name in ("basis", "old")
    )
    assert [row["rounds"] for row in basis] == [row["rounds"] for row in old] and not (
        folder / "out" / "old" / "train.log"
    ).exists()
    assert (
        "broken: done" in out
        and (folder / "out" / "basis" / "tau.json").stat().st_mtime_ns == before
    )
