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

from eagle_hf.evaluation import weights_fingerprint

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
    head = tiny_head(target)
    head.save_pretrained(tmp_path / "head")
    lines = []
    for number in range(6):
        prompt = {"id": str(number), "turns": [f"w{5 + number} w7"], "category": "chat"}
        lines.append(json.dumps(prompt) + "\n")
    (tmp_path / "asked.jsonl").write_text("".join(lines))
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
    metrics = json.loads(done.stdout.splitlines()[-1])
    assert metrics["head_fingerprint"] == weights_fingerprint(head)
    settings = metrics["settings"]
    assert [(setting["tree"], setting["temperature"]) for setting in settings] == [
        ("dynamic:4:6:24", 0.0),
        ("dynamic:4:6:24", 1.0),
        ("chain:2:1:2", 0.0),
        ("chain:2:1:2", 1.0),
    ]
    for setting in settings:
        assert setting["results"]["all"]["prompts"] == 3
        assert setting["results"]["chat"]["identical"] == 1.0
        assert setting["left_out"] == 3

    # what an older version kept is gone on with
    kept = json.loads((tmp_path / "out" / "measured.json").read_text())
    kept["asked"]["head_sha256"] = kept["asked"].pop("head_fingerprint")
    (tmp_path / "out" / "measured.json").write_text(json.dumps(kept))
    again = run(tmp_path)
    assert json.loads(again.stdout.splitlines()[-1])["settings"] == settings
    assert "| chat |" not in again.stdout

    other = run(tmp_path, "--max_new_tokens", "9")
    assert other.returncode
    assert "measured with other arguments" in other.stderr
