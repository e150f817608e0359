"""Rollouts of two processes: each drafts its own, and their heads stay equal."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")
MULTI_CPU = Path(__file__).parents[2] / "recipes" / "configs" / "accelerate" / "multi_cpu.yaml"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_TORCH_DEVICE": "cpu"}


def launched(folder: Path, how: str) -> dict[str, Any]:
    """What two processes find."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(MULTI_CPU)]
    done = subprocess.run(
        [*launch, "--num_processes", "2", str(SCRIPT), str(folder), how],
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"sums"')]
    return json.loads(lines[-1])


@pytest.mark.slow
def test_two_processes_draft_and_learn_alike(tmp_path):
    found = launched(tmp_path, "ddp")
    assert found["drafted"] == [1.0, 0.0, 1.0, 1.0]
    assert found["head_steps"] >= 1
    assert found["sums"][0] == found["sums"][1]


@pytest.mark.slow
def test_a_sharded_policy_is_whole_while_it_generates(tmp_path):
    found = launched(tmp_path, "fsdp2")
    assert found["equal"] == [True] * 4
    assert found["drafted"] == 1.0
    assert found["head_steps"] >= 1
    assert found["sums"][0] == found["sums"][1]
    assert found["share"] == 0.5
