"""Examples are cut into parts in the same way in every run, and captured part by part."""

import pytest
import torch
from tiny import tiny_target, word_tokenizer

from eagle_hf.cluster.capturing import (
    CaptureSettings,
    CaptureStage,
    OpenedTarget,
    cut_parts,
)
from eagle_hf.data import Features, join_features


def examples(*lengths):
    """Examples of these lengths."""
    rows = []
    for number, length in enumerate(lengths):
        ids = [3 + (number + position) % 20 for position in range(length)]
        mask = [0, *[1] * (length - 1)]
        rows.append({"id": f"e{number}", "input_ids": ids, "loss_mask": mask})
    return rows


def test_a_part_is_full_once_it_has_its_tokens():
    parts = list(cut_parts(iter(examples(3, 4, 9, 2, 2)), part_tokens=6))
    assert [part.name for part in parts] == ["part-000000", "part-000001", "part-000002"]
    names = [[row["id"] for row in part.examples] for part in parts]
    assert names == [["e0", "e1"], ["e2"], ["e3", "e4"]]


def test_no_examples_are_no_parts():
    assert not list(cut_parts(iter([])))


def test_a_stage_goes_on_with_a_part_and_the_parts_are_one_folder(tmp_path):
    settings = CaptureSettings(str(tmp_path), "float32", batch_tokens=64)
    target = tiny_target(dtype=torch.float32)
    stage = CaptureStage(OpenedTarget(target, word_tokenizer(), [2, 3, 4]), settings)
    parts = list(cut_parts(iter(examples(3, 4, 9, 2, 2)), part_tokens=6))
    found = [stage(part) for part in parts]
    again = stage(parts[1])
    assert [part["written"] for part in found] == [2, 1, 2]
    assert (again["written"], again["already_there"]) == (0, 1)
    join_features(tmp_path, [part["part"] for part in found])
    assert Features(tmp_path).ids == ["e0", "e1", "e2", "e3", "e4"]


def test_int8_is_refused_before_anything_is_captured():
    with pytest.raises(ValueError, match="int8, whose scale is measured once"):
        CaptureSettings("anywhere", "int8", batch_tokens=64)
