"""Writing offline features: what is kept of an interrupted run, and what is refused."""

import errno
import json
import os
import shutil

import pytest
import torch
from datasets import Dataset
from feature_folders import LAYERS, Interrupted, contents, float32_target, shard_name
from tiny import tiny_target

from eagle_hf.data import Features
from eagle_hf.data.features import target_features
from eagle_hf.data.manifest import only_one_run


def test_capture_says_how_large_it_will_be(write, tmp_path, capsys):
    report = write(tmp_path, shard_bytes=2**30, progress=True)
    size = (tmp_path / shard_name(0)).stat().st_size
    assert f"114 tokens, {size / 1e6:.1f} MB in 1 shard\n" in capsys.readouterr().out
    assert report.tokens == 114
    assert report.bytes == size
    assert report.shards == 1


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("reads", [8, 9, 11, 14])
def test_interrupted_capture_goes_on_and_writes_the_same_bytes(
    examples, write, tmp_path, dtype, reads
):
    settings = {"dtype": dtype, "shard_bytes": 16000 if dtype == "float32" else 5000}
    write(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "parts", Interrupted(examples, reads), **settings)
    assert not list((tmp_path / "parts").glob(".*"))
    with pytest.raises(ValueError, match="was interrupted; run it again"):
        Features(tmp_path / "parts")
    report = write(tmp_path / "parts", **settings)
    assert report.shards > 2
    assert report.written + report.already_there == 8
    assert (report.already_there > 0) == (reads > 8)
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_finished_capture_does_not_run_the_target_again(write, tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(target_features, "target_states", None)
    report = write(tmp_path)
    assert (report.written, report.already_there) == (0, 8)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_lost_shard_is_named_and_written_anew(write, tmp_path, damage):
    write(tmp_path)
    before = contents(tmp_path)
    path = tmp_path / shard_name(1)
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    remedy = "delete that file and run the capture again"
    with pytest.raises(
        ValueError, match=f"{shard_name(1)} .*(is missing|it is truncated); {remedy}"
    ):
        Features(tmp_path)
    assert 0 < write(tmp_path).written < 8
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"template_sha256": "x"}, "template_sha256"),
        ({"dtype": "int8"}, "dtype"),
        ({"batch_tokens": 50}, "batch_tokens"),
        ({"layer_ids": [1, 2, 3]}, "layer_ids"),
        ({"shard_bytes": 20000}, "shard_bytes"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(write, tmp_path, setting, name):
    write(tmp_path)
    with pytest.raises(
        ValueError, match=f"other settings: {name} is .* there and .* now; choose another folder"
    ):
        write(tmp_path, **setting)


def test_other_examples_or_target_in_the_same_folder_are_refused_by_name(examples, write, tmp_path):
    write(tmp_path)
    changed = [*examples[:-1], examples[-1] | {"loss_mask": [1] * 8}]
    for rows in (examples[:-1], changed):
        with pytest.raises(ValueError, match="examples_sha256 is"):
            write(tmp_path, rows)
    with pytest.raises(ValueError, match="target_weights is"):
        write(tmp_path, target=float32_target(seed=1))


def test_foreign_safetensors_are_not_written_over(write, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds safetensors files but no index.json"):
        write(tmp_path)


@pytest.fixture
def set_free_space(tmp_path, monkeypatch):
    """Lets every disk have so many bytes free."""
    usage = shutil.disk_usage(tmp_path)

    def set_free(free):
        def disk_usage(path):
            return usage._replace(free=free)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)

    return set_free


def test_disk_too_small_is_refused_before_the_first_byte(write, tmp_path, set_free_space):
    set_free_space(50_000)
    with pytest.raises(
        ValueError, match=r"needs 0\.1 MB more and its disk has 0\.1 MB free; free space"
    ):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_already_there_needs_no_room(write, tmp_path, set_free_space):
    write(tmp_path)
    (tmp_path / shard_name(2)).unlink()
    set_free_space(30_000)
    assert write(tmp_path).written > 0


@pytest.mark.parametrize("file", [shard_name(1), "index.json"])
def test_disk_that_fills_up_keeps_the_finished_shards(write, tmp_path, monkeypatch, file):
    write(tmp_path / "whole")
    parts = tmp_path / "parts"
    real_fsync = os.fsync

    def full_after_the_first_shard(handle):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))
        if name == f".{file}.tmp" and list(parts.glob("features-*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        real_fsync(handle)

    monkeypatch.setattr(os, "fsync", full_after_the_first_shard)
    kept = "1 of 4 shards are finished and kept: free space"
    with pytest.raises(ValueError, match=f"became full while {file} was written; {kept}"):
        write(parts)
    assert not list(parts.glob(".*"))
    monkeypatch.setattr(os, "fsync", real_fsync)
    write(parts)
    assert contents(tmp_path / "whole") == contents(parts)


def test_two_runs_in_one_folder_are_refused(write, tmp_path):
    with only_one_run(tmp_path), pytest.raises(ValueError, match="another run is writing to"):
        write(tmp_path)
    assert write(tmp_path).written == 8
    assert not (tmp_path / ".lock").exists()


def test_leftovers_of_a_killed_run_are_removed(write, tmp_path):
    (tmp_path / f".{shard_name(0)}.tmp").write_bytes(b"half")
    write(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_longest_conversations_come_first_and_batches_stay_within_their_tokens(
    write, tmp_path, monkeypatch
):
    real_target_states = target_features.target_states
    shapes = []

    def noted(target, rows, layers):
        shapes.append((len(rows), max(map(len, rows))))
        return real_target_states(target, rows, layers)

    monkeypatch.setattr(target_features, "target_states", noted)
    write(tmp_path, batch_tokens=36)
    assert shapes == [(1, 30), (1, 30), (2, 17), (4, 9)]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            {"dtype": "float16"},
            "the storage dtype is 'float16'; choose one of float32, bfloat16, int8",
        ),
        ({"layer_ids": [2, 3, 99]}, "the target has layers 0..6"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"rows": []}, "no conversations to capture"),
        (
            {"rows": [{"id": "a", "input_ids": [1, 2]}]},
            "'a' is a row of id, input_ids; tokenised rows with",
        ),
        (
            {"rows": [{"input_ids": [1, 31], "loss_mask": [1, 1]}]},
            "'row-0' holds tokens from 1 to 31, the target knows 0 to 30",
        ),
        ({"url": "nothing://x"}, "Protocol not known"),
    ],
)
def test_unusable_arguments_are_refused_before_anything_is_written(write, tmp_path, setting, text):
    with pytest.raises(ValueError, match=text):
        write(**({"url": tmp_path} | setting))
    assert not list(tmp_path.iterdir())


def test_states_that_are_not_finite_are_refused(write, tmp_path):
    broken = tiny_target(dtype=torch.float32)
    broken.model.layers[3].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"states are not finite in the batch of \['c3'\]"):
        write(tmp_path, target=broken)


def test_datasets_are_captured_like_lists(examples, write, tmp_path):
    write(tmp_path / "list")
    write(tmp_path / "dataset", Dataset.from_list(examples))
    assert contents(tmp_path / "list") == contents(tmp_path / "dataset")


def test_index_says_what_made_the_folder(write, tmp_path):
    write(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["format"] == 1
    assert index["step"] == "features"
    assert index["layer_ids"] == LAYERS
    assert index["complete"] is True
