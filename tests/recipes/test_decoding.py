"""The recipes that measure decoding, on tiny models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny target with a tokenizer, and a head."""
    folder = tmp_path_factory.mktemp("decoding")
    target = tiny_target(dtype=torch.float32)
    target.save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    tiny_head(target).save_pretrained(folder / "head")
    return folder


def run(folder, recipe, *flags):
    command = [sys.executable, RECIPES / recipe, "--target", "target", "--dtype", "float32", *flags]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_self_speculation_is_measured_by_batch_length_and_gamma(folder):
    flags = (
        "--gammas 1 2 --sinks 2 --window 9 --batches 1 2 --lengths 40 --new_tokens 12 --repeats 1 "
        "--output_dir self"
    )
    rows = run(folder, "benchmark_decoding.py", *flags.split())["rows"]
    assert [(row["batch"], row["method"]) for row in rows] == [
        (1, "gamma 1"),
        (1, "gamma 2"),
        (2, "gamma 1"),
        (2, "gamma 2"),
    ]
    for row in rows:
        assert row["tau"] >= 1
        assert row["over_plain"] > 0
        assert row["predicted"] > 0


def test_tau_is_measured_by_length_and_window(folder):
    flags = (
        "--head head --lengths 60 90 --windows 70 --prompts 2 --max_new_tokens 8 --output_dir long"
    )
    rows = run(folder, "long_context.py", *flags.split())["rows"]
    cells = [(row["length"], row["window"]) for row in rows]
    assert cells == [(60, None), (90, None), (90, [4, 66])]
    assert rows[2]["difference"]
    for row in rows:
        low, high = row["interval"]
        assert low <= row["tau"] <= high


def test_reading_in_place_is_timed_beside_the_copies(folder):
    flags = "--batches 1 2 --lengths 40 --tokens 3 --repeats 1 --output_dir reading"
    rows = run(folder, "benchmark_reading.py", *flags.split())["rows"]
    assert [(row["batch"], row["length"]) for row in rows] == [(1, 40), (2, 40)]
    for row in rows:
        assert row["in_place"] > 0
        assert row["copied"] > 0
