"""The evaluation recipe on a tiny target: every setting once, kept when the command is repeated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_head, tiny_target, word_tokenizer

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate.py"


def run(folder, *flags):
    command = [sys.executable, RECIPE, "--config", "evaluate.yaml", *flags]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_every_setting_is_measured_once_and_kept(tmp_path):
    target = tiny_target(dtype=torch.float32, eos_token_id=2)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    tiny_head(target).save_pretrained(tmp_path / "head")
    prompts = [{"id": str(i), "turns": [f"w{5 + i} w7"], "category": "chat"} for i in range(6)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    config = dict(
        target="target",
        head="head",
        output_dir="out",
        categories=["asked.jsonl"],
        per_category={"float32": 4},
        leave_out=3,
        trees=["own", "chain:2:1:2"],
        max_new_tokens=8,
    )
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config))
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    settings = json.loads(done.stdout.splitlines()[-1])["settings"]
    assert [(s["tree"], s["temperature"]) for s in settings] == [
        (t, k) for t in ("dynamic:4:6:24", "chain:2:1:2") for k in (0.0, 1.0)
    ]
    assert all(
        s["results"]["all"]["prompts"] == 3 and s["results"]["chat"]["identical"] == 1.0
        for s in settings
    )
    again = run(tmp_path)
    assert (
        json.loads(again.stdout.splitlines()[-1])["settings"] == settings
        and "| chat |" not in again.stdout
    )
    other = run(tmp_path, "--max_new_tokens", "9")
    assert other.returncode and "measured with other arguments" in other.stderr
