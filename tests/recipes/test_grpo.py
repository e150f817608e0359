"""recipes/grpo_with_head.py on a tiny policy: both runs, the table, the plot."""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import Eagle3DraftHead

RECIPE = Path(__file__).parents[2] / "recipes" / "grpo_with_head.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """The recipe as a module."""
    spec = util.spec_from_file_location("grpo_with_head", RECIPE)
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["grpo_with_head"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Calculate ( -6 + -77 - 8 + -38 ).", -129.0),
        ("Calculate 3 * 9.", 27.0),
        ("Calculate 965 / 5.", 193.0),
        ("Find the Greatest Common Divisor (GCD) of these numbers: 12, 18. Give only it.", 6.0),
        ("Calculate the time difference between Sat Dec 22 2677 and Thu Mar 21 2678.", None),
    ],
)
def test_the_rule_knows_sums(recipe, question, answer):
    assert recipe.solution(question) == answer


def test_rewards_look_at_the_last_number(recipe):
    texts = ["It is 6, so 1,234", "1234 or 7", "no idea"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    assert recipe.reward(completions, [1234.0] * 3) == [1.0, 0.1, 0.0]


def test_files_without_sums_are_refused(recipe):
    with pytest.raises(ValueError, match="basic_arithmetic"):
        recipe.read_sums(["eval_chat_mt_bench"])


def test_speeds_are_paired_by_neighbours(recipe):
    lines = []
    for step in range(6):
        seconds = 2.0 if step % 2 else 1.0
        line = {"rollout/drafted": 1.0 - step % 2, "rollout/seconds": seconds}
        lines.append(line | {"completions/max_length": 10})
    assert recipe.median_speed(lines) == 2.0


@pytest.mark.slow
def test_the_recipe_runs(tmp_path):
    target = tiny_target(dtype=torch.float32)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    tiny_head(target).save_pretrained(tmp_path / "head")
    flags = ["--target", "target", "--head", "head", "--output_dir", "out", "--steps", "3"]
    flags += ["--group", "2", "--new_tokens", "6", "--dtype", "float32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(RECIPE), *flags],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(metrics) == {"frozen", "following"}
    assert metrics["following"]["head_s"] > 0
    assert metrics["frozen"]["head_s"] == 0
    assert (tmp_path / "out" / "tau.png").stat().st_size > 1000
    Eagle3DraftHead.from_pretrained(tmp_path / "out" / "head")
