"""What a training step holds beside weights, gradients and optimiser, in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "benchmark_training.py"

# Freed tensors go back at once: what glibc keeps of them is not the step's.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}

SMALL = dict(length=64, hidden=64, vocabulary=512, drafted=128, ttt_length=2, steps=1)


def measured(*options, **environment):
    """The JSON that the benchmark prints for one setting."""
    done = subprocess.run(
        [sys.executable, RECIPE, "--one", *options],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return json.loads(done.stdout)


def above_state(*options):
    """GB at the peak of two steps.

    H 576, V 49,152, U 8,192, 2,048 tokens a row, all learnt, 7 passes, float32.
    """
    return measured("--steps", "0", *options, **RETURNED)["above_state_gb"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, bound", [([], 1.5), (["--checkpointing"], 0.75)], ids=["plain", "checkpointing"]
)
def test_memory_stays_in_its_bound_and_grows_with_the_batch(options, bound):
    one = above_state(*options)
    four = above_state("--batch", "4", *options)
    print(f"{one:.2f} GB, with four rows {four:.2f} GB")
    assert 0 < one <= bound
    assert four <= 4.2 * one


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [[], ["--online", "--target_layers", "3", "--bf16"]], ids=["offline", "online"]
)
def test_the_benchmark_measures_a_small_step(options):
    ours = bytearray(b"1") * 10**9  # a peak of this process, which is none of the step's
    small = []
    for name, value in SMALL.items():
        small += [f"--{name}", str(value)]
    step = measured(*small, *options)
    assert step["tokens_per_second"] > 0
    assert 0 < step["share_of_limit"] < 1.5
    assert 0 < 1e9 * step["above_state_gb"] < len(ours) / 2
