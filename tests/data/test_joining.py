"""Features captured in parts open as one folder, in the order of the parts."""

import json
from pathlib import Path

import pytest
import torch
from feature_folders import LAYERS, TEMPLATE, float32_target

from eagle_hf.data import Features, capture_features, join_features


def rows(count, start=0):
    """Tokenised examples of different lengths."""
    examples = []
    for number in range(start, start + count):
        ids = [3 + (number + position) % 20 for position in range(4 + number % 5)]
        mask = [0, *[1] * (len(ids) - 1)]
        examples.append({"id": f"e{number}", "input_ids": ids, "loss_mask": mask})
    return examples


def capture(url, examples, **settings):
    """Capture examples with a tiny target."""
    target = settings.pop("target", None) or float32_target()
    capture_features(
        target,
        examples,
        url,
        layer_ids=LAYERS,
        template_sha256=TEMPLATE,
        dtype=settings.pop("dtype", "float32"),
        progress=False,
        shard_bytes=4096,
        **settings,
    )


@pytest.fixture
def in_parts(tmp_path):
    """Two finished parts of eleven examples."""
    capture(tmp_path / "part-0", rows(7))
    capture(tmp_path / "part-1", rows(4, start=7))
    return tmp_path


def test_parts_hold_what_one_capture_would(in_parts, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    capture(whole, rows(11))
    assert join_features(in_parts, ["part-0", "part-1"]) == 11
    joined = Features(in_parts)
    expected = Features(whole)
    assert joined.ids == expected.ids
    for found, wanted in zip(joined, expected, strict=True):
        assert torch.equal(found["input_ids"], wanted["input_ids"])
        assert torch.equal(found["loss_mask"], wanted["loss_mask"])
        torch.testing.assert_close(found["hidden_states"], wanted["hidden_states"])
        torch.testing.assert_close(found["aux_hidden_states"], wanted["aux_hidden_states"])


def test_a_part_that_does_not_say_whose_states_it_holds_is_joined(in_parts):
    index = json.loads((in_parts / "part-0" / "index.json").read_text())
    del index["states_from"]  # as older versions wrote it
    (in_parts / "part-0" / "index.json").write_text(json.dumps(index))
    assert join_features(in_parts, ["part-0", "part-1"]) == 11


def test_a_remote_folder_is_joined_too(tmp_path):
    url = "memory://bucket/features"
    capture(f"{url}/part-0", rows(3))
    capture(f"{url}/part-1", rows(3, start=3))
    join_features(url, ["part-0", "part-1"])
    assert Features(url).ids == [f"e{number}" for number in range(6)]
    assert list(Features(url).examples())[4]["input_ids"] == rows(6)[4]["input_ids"]


def test_a_missing_shard_is_named_with_its_part(in_parts):
    join_features(in_parts, ["part-0", "part-1"])
    (in_parts / "part-1" / "features-00000.safetensors").unlink()
    with pytest.raises(ValueError, match="part-1/features-00000.safetensors .* is missing"):
        Features(in_parts)


def test_an_unfinished_part_is_refused(in_parts):
    path = in_parts / "part-1" / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"complete": False}))
    with pytest.raises(ValueError, match="part-1 is not finished"):
        join_features(in_parts, ["part-0", "part-1"])
    with pytest.raises(ValueError, match="part-2 holds no features"):
        join_features(in_parts, ["part-0", "part-2"])


def test_parts_of_two_targets_are_refused(in_parts):
    capture(in_parts / "part-2", rows(2), target=float32_target(seed=5))
    with pytest.raises(ValueError, match="target_weights is .* in part-2"):
        join_features(in_parts, ["part-0", "part-2"])


def test_int8_is_refused_because_every_part_has_its_scale(tmp_path):
    capture(tmp_path / "part-0", rows(3), dtype="int8")
    with pytest.raises(ValueError, match="int8, whose scale each part measures"):
        join_features(tmp_path, ["part-0"])


def test_no_parts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no parts"):
        join_features(Path(tmp_path), [])


def test_a_joined_folder_is_not_captured_into(in_parts):
    join_features(in_parts, ["part-0", "part-1"])
    with pytest.raises(ValueError, match="examples_sha256"):
        capture(in_parts, rows(11))
