"""What a training step holds beside weights, gradients and optimiser, measured in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "benchmark_training.py"

RETURNED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**20)
}  # freed tensors go back at once: what glibc keeps of them is not the step's


def above_state(*options) -> float:
    """GB at the peak of two steps: H 576, V 49,152, U 8,192, 2,048 tokens a row, all learnt, 7 passes, float32."""
    command = [sys.executable, RECIPE, "--one", "--steps", "0", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | RETURNED
    )
    return json.loads(done.stdout)["above_state_gb"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, bound", [([], 1.5), (["--checkpointing"], 0.75)], ids=["plain", "checkpointing"]
)
def test_memory_stays_in_its_bound_and_grows_with_the_batch(options, bound):
    one, four = above_state(*options), above_state("--batch", "4", *options)
    print(f"{one:.2f} GB, with four rows {four:.2f} GB")
    assert 0 < one <= bound and four <= 4.2 * one


@pytest.mark.slow
def test_the_benchmark_measures_a_small_step():
    ours = bytearray(b"1") * 10**9  # a peak of this process, which is none of the step's
    small = [
        "--length",
        "64",
        "--hidden",
        "64",
        "--vocabulary",
        "512",
        "--drafted",
        "128",
        "--ttt_length",
        "2",
        "--steps",
        "1",
    ]
    for options in ([], ["--online", "--target_layers", "3", "--bf16"]):
        done = subprocess.run(
            [sys.executable, RECIPE, "--one", *small, *options],
            capture_output=True,
            text=True,
            check=True,
        )
        measured = json.loads(done.stdout)
        assert measured["tokens_per_second"] > 0 and 0 < measured["share_of_limit"] < 1.5
        assert 0 < 1e9 * measured["above_state_gb"] < len(ours) / 2
