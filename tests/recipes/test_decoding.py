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
    folder, target = tmp_path_factory.mktemp("decoding"), tiny_target(dtype=torch.float32)
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
    flags = [
        "--gammas",
        "1",
        "2",
        "--sinks",
        "2",
        "--window",
        "9",
        "--batches",
        "1",
        "2",
        "--lengths",
        "40",
        "--new_tokens",
        "12",
        "--repeats",
        "1",
    ]
    rows = run(folder, "benchmark_decoding.py", "--output_dir", "self", *flags)["rows"]
    assert [(row["batch"], row["way"]) for row in rows] == [
        (b, w) for b in (1, 2) for w in ("gamma 1", "gamma 2")
    ]
    assert all(row["tau"] >= 1 and row["over_plain"] > 0 and row["promised"] > 0 for row in rows)


def test_tau_is_measured_by_length_and_window(folder):
    flags = [
        "--head",
        "head",
        "--lengths",
        "60",
        "90",
        "--windows",
        "70",
        "--prompts",
        "2",
        "--max_new_tokens",
        "8",
    ]
    rows = run(folder, "long_context.py", "--output_dir", "long", *flags)["rows"]
    assert [(row["length"], row["window"]) for row in rows] == [
        (60, None),
        (90, None),
        (90, [4, 66]),
    ]
    assert rows[2]["difference"] and all(
        row["interval"][0] <= row["tau"] <= row["interval"][1] for row in rows
    )


def test_reading_in_place_is_timed_beside_the_copies(folder):
    rows = run(
        folder,
        "benchmark_reading.py",
        "--output_dir",
        "reading",
        "--batches",
        "1",
        "2",
        "--lengths",
        "40",
        "--tokens",
        "3",
        "--repeats",
        "1",
    )["rows"]
    assert [(row["batch"], row["length"]) for row in rows] == [(1, 40), (2, 40)]
    assert all(row["in_place"] > 0 and row["copied"] > 0 for row in rows)
