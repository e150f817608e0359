"""Offline features: what is read is what the target said, and whatever is wrong with a folder is named."""

import errno
import json
import os
import pickle
import shutil
import signal

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import load_file
from tiny import tiny_target

from eagle_hf import Features, capture_features
from eagle_hf.data import target_features
from eagle_hf.data.manifest import only_one_run
from eagle_hf.data.shards import dequantise, measure_spread, quantise
from eagle_hf.target import next_token_summary, target_logits, target_states

LAYERS, HASH = [2, 3, 4], "template"
SHARD = "features-{:05d}.safetensors".format


@pytest.fixture(scope="module")
def target():
    return tiny_target(dtype=torch.float32)


@pytest.fixture(scope="module")
def examples():
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, length in enumerate([5, 17, 9, 30, 3, 12, 30, 8]):
        ids = torch.randint(31, (length,), generator=generator).tolist()
        rows.append(
            {"id": f"c{number}", "input_ids": ids, "loss_mask": [0, 0] + [1] * (length - 2)}
        )
    return rows


@pytest.fixture
def write(target, examples):
    """Captures into a folder, in three or four shards unless told otherwise."""

    def call(url, rows=examples, target=target, **settings):
        usual = dict(
            layer_ids=LAYERS,
            template_sha256=HASH,
            dtype="float32",
            batch_tokens=40,
            shard_bytes=16000,
            progress=False,
        )
        return capture_features(target, rows, url, **(usual | settings))

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def alone(target, example):
    """What the target makes of one conversation by itself."""
    aux, states = target_states(target, torch.tensor([example["input_ids"]]), LAYERS)
    return aux[0], states[0], *next_token_summary(target, states[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_conversations_come_back_in_the_order_given(target, examples, write, tmp_path, dtype):
    report = write(tmp_path, dtype=dtype)
    features = Features(tmp_path)
    assert (
        features.lengths == [len(example["input_ids"]) for example in examples]
        and len(features) == report.written == 8
    )
    for number, (item, example) in enumerate(zip(features, examples, strict=True)):
        aux, states, best, _ = alone(target, example)
        assert (item["id"], item["index"], item["input_ids"].tolist()) == (
            example["id"],
            number,
            example["input_ids"],
        )
        assert (
            item["loss_mask"].dtype == torch.bool
            and item["loss_mask"].long().tolist() == example["loss_mask"]
        )
        assert item["best"].tolist() == best.tolist()
        tolerance = {"float32": 1e-5, "bfloat16": 2**-8, "int8": 0.02}[dtype]  # of a token's state
        for name, expected in (("aux_hidden_states", aux), ("hidden_states", states)):
            assert item[name].dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
            assert (
                (item[name].float() - expected).norm(dim=-1) <= tolerance * expected.norm(dim=-1)
            ).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_normaliser_belongs_to_the_states_that_are_read(target, write, tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    for item in Features(tmp_path):
        probs = (
            target_logits(target, item["hidden_states"].float()) - item["log_normaliser"][:, None]
        ).exp()
        torch.testing.assert_close(probs.sum(-1), torch.ones(len(probs)), rtol=1e-4, atol=0)


def test_bfloat16_states_of_a_bfloat16_target_are_stored_exactly(examples, write, tmp_path):
    target = tiny_target(dtype=torch.bfloat16)
    write(tmp_path, target=target, dtype="bfloat16")
    aux, states, _, normaliser = alone(target, examples[3])
    item = Features(tmp_path)[3]  # one of the longest, so the target read it in a batch of its own
    assert torch.equal(item["aux_hidden_states"], aux) and torch.equal(
        item["hidden_states"], states
    )
    assert torch.equal(item["log_normaliser"], normaliser)


def test_int8_error_is_at_most_half_a_step_and_small_where_few_dimensions_are_huge():
    torch.manual_seed(0)
    states = torch.randn(64, 4, 32)
    states[:, :, 5], states[:, 1, 7] = states[:, :, 5] * 400 + 300, states[:, 1, 7] * 1000
    states[0] *= 50  # a first token
    spread = measure_spread(states)
    errors = {}
    for name, divisor in (("spread", spread), ("plain", torch.ones_like(spread))):
        values, scales = quantise(states, divisor)
        back = dequantise(values, scales, divisor)
        assert values.dtype == torch.int8 and scales.shape == (64, 4)
        assert ((back - states).abs() <= 0.501 * scales[..., None] * divisor).all()
        errors[name] = ((back - states)[1:, :, :5].norm() / states[1:, :, :5].norm()).item()
    assert errors["spread"] < 0.03 < 0.3 < errors["plain"]


def test_silent_dimension_and_zero_token_survive_int8():
    states = torch.randn(8, 4, 16)
    states[:, :, 3], states[2] = 0, 0
    spread = measure_spread(states)
    back = dequantise(*quantise(states, spread), spread)
    assert back.isfinite().all() and (back[2] == 0).all() and (back[:, :, 3] == 0).all()


def test_shard_is_a_safetensors_file_with_known_names(write, tmp_path):
    write(tmp_path, shard_bytes=2**20)
    item, shard = (
        Features(tmp_path)[3],
        load_file(tmp_path / SHARD(0)),
    )  # the first of the two longest
    assert torch.equal(shard["0.aux_hidden_states"], item["aux_hidden_states"])
    assert shard["0.input_ids"].tolist() == item["input_ids"].tolist()
    assert shard["0.loss_mask"].shape == (32,) and shard["7.best"].dtype == torch.int32


def test_only_the_bytes_asked_for_are_read(write, tmp_path, monkeypatch):
    write(tmp_path)
    read, plain = [], LocalFileSystem.cat_file

    def counted(self, path, start=None, end=None, **kwargs):
        data = plain(self, path, start, end, **kwargs)
        read.append((os.path.basename(path), len(data)))
        return data

    monkeypatch.setattr(LocalFileSystem, "cat_file", counted)
    features = Features(tmp_path)
    assert [name for name, _ in read] == ["index.json"]
    read.clear()
    features[1], features[1]
    header = features._shards[features._items[1].shard].header_bytes
    size = (
        17 * (4 + 4 + 4 + 4 * 4 * 32) + 20
    )  # ids, best, normaliser, four streams of 32; the mask padded to 20
    assert [size for _, size in read] == [header, size, size]
    read.clear()
    assert [example["id"] for example in features.examples()] == [f"c{n}" for n in range(8)]
    assert sum(size for name, size in read) < 3000 + sum(
        shard.header_bytes for shard in features._shards
    )


def test_examples_are_what_was_captured(examples, write, tmp_path):
    write(tmp_path)
    assert list(Features(tmp_path).examples()) == examples


def test_capture_says_how_large_it_will_be(write, tmp_path, capsys):
    report = write(tmp_path, shard_bytes=2**30, progress=True)
    size = (tmp_path / SHARD(0)).stat().st_size
    assert f"114 tokens, {size / 1e6:.1f} MB in 1 shard\n" in capsys.readouterr().out
    assert (report.tokens, report.bytes, report.shards) == (114, size, 1)


class Interrupted:
    """Examples that fail at the given read; the plan reads each once, the capture each once more."""

    def __init__(self, rows, reads):
        self.rows, self.reads = rows, reads

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return self.rows[index]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("reads", [8, 9, 11, 14])
def test_interrupted_capture_goes_on_and_writes_the_same_bytes(
    examples, write, tmp_path, dtype, reads
):
    shard_bytes = 16000 if dtype == "float32" else 5000
    write(tmp_path / "whole", dtype=dtype, shard_bytes=shard_bytes)
    with pytest.raises(KeyboardInterrupt):
        write(
            tmp_path / "parts", Interrupted(examples, reads), dtype=dtype, shard_bytes=shard_bytes
        )
    assert not list((tmp_path / "parts").glob(".*"))
    with pytest.raises(ValueError, match="was interrupted; run it again"):
        Features(tmp_path / "parts")
    report = write(tmp_path / "parts", dtype=dtype, shard_bytes=shard_bytes)
    assert (
        report.shards > 2
        and report.written + report.already_there == 8
        and (report.already_there > 0) == (reads > 8)
    )
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_finished_capture_does_not_run_the_target_again(write, tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(target_features, "target_states", None)
    report = write(tmp_path)
    assert (report.written, report.already_there) == (0, 8)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_lost_shard_is_named_and_written_anew(write, tmp_path, damage):
    write(tmp_path)
    before, path = contents(tmp_path), tmp_path / SHARD(1)
    path.unlink() if damage == "missing" else os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(
        ValueError,
        match=f"{SHARD(1)} .*(is missing|it is truncated); delete that file and run the capture again",
    ):
        Features(tmp_path)
    assert 0 < write(tmp_path).written < 8
    assert contents(tmp_path) == before


def test_damaged_conversation_is_named_and_the_others_are_read(write, tmp_path):
    write(tmp_path)
    features = Features(tmp_path)
    place = features._items[5]
    with (tmp_path / SHARD(place.shard)).open("r+b") as file:
        file.seek(features._shard_starts(place.shard)[place.number] + 700)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(
        ValueError, match=f"{SHARD(place.shard)} of .* is damaged at conversation 'c5'"
    ):
        features[5]
    assert features[4]["id"] == "c4"


def test_damaged_header_spread_and_vanished_shard_are_named(write, tmp_path):
    write(tmp_path, dtype="int8", shard_bytes=5000)
    features = Features(tmp_path)
    shard = tmp_path / SHARD(0)
    data = shard.read_bytes()
    shard.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    with pytest.raises(ValueError, match=f"{SHARD(0)} of .* is damaged in its header"):
        features[3]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{SHARD(0)} of .* cannot be read"):
        features[3]
    (tmp_path / "spread.safetensors").write_bytes(b"x")
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="spread.safetensors of .* is missing or damaged"):
        Features(tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "has no index.json"),
        ("{", "is not JSON"),
        ('{"format": 9}', "has the format 9"),
        ("[1]", "has the format"),
    ],
)
def test_folder_without_a_usable_index_is_refused(tmp_path, content, text):
    if content:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match=text):
        Features(tmp_path)


def test_features_of_another_target_layer_set_or_template_are_refused_by_name(
    target, write, tmp_path
):
    write(tmp_path)
    features = Features(tmp_path)
    features.check(target=target, layer_ids=LAYERS, template_sha256=HASH)
    features.check(target=target, layer_ids=tuple(LAYERS))
    with pytest.raises(ValueError, match="target_weights is .* there and .* now") as error:
        features.check(target=tiny_target(dtype=torch.float32, seed=1), layer_ids=LAYERS)
    assert "layer_ids is" not in str(error.value)
    with pytest.raises(
        ValueError,
        match=r"layer_ids is \[2, 3, 4\] there and \[1, 2, 3\] now; template_sha256 is template there",
    ):
        features.check(target=target, layer_ids=[1, 2, 3], template_sha256="other")


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
        write(tmp_path, target=tiny_target(dtype=torch.float32, seed=1))


def test_foreign_safetensors_are_not_written_over(write, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds safetensors files but no index.json"):
        write(tmp_path)


def test_disk_too_small_is_refused_before_the_first_byte(write, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
    with pytest.raises(
        ValueError, match=r"needs 0\.1 MB more and its disk has 0\.1 MB free; free space"
    ):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_already_there_needs_no_room(write, tmp_path, monkeypatch):
    write(tmp_path)
    (tmp_path / SHARD(2)).unlink()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=30_000))
    assert write(tmp_path).written > 0


@pytest.mark.parametrize("file", [SHARD(1), "index.json"])
def test_disk_that_fills_up_keeps_the_finished_shards(write, tmp_path, monkeypatch, file):
    write(tmp_path / "whole")
    plain = os.fsync

    def full(handle):
        if os.path.basename(os.readlink(f"/proc/self/fd/{handle}")) == f".{file}.tmp" and list(
            (tmp_path / "parts").glob("features-*")
        ):
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ValueError,
        match=f"became full while {file} was written; 1 of 4 shards are finished and kept: free space",
    ):
        write(tmp_path / "parts")
    assert not list((tmp_path / "parts").glob(".*"))
    monkeypatch.setattr(os, "fsync", plain)
    write(tmp_path / "parts")
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_two_runs_in_one_folder_are_refused(write, tmp_path):
    with only_one_run(tmp_path), pytest.raises(ValueError, match="another run is writing to"):
        write(tmp_path)
    assert write(tmp_path).written == 8 and not (tmp_path / ".lock").exists()


def test_killed_run_holds_no_lock(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with only_one_run(tmp_path):
            os.write(writer, b"locked")
            signal.pause()
    os.read(reader, 6)
    try:
        with pytest.raises(ValueError, match="another run"), only_one_run(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with only_one_run(tmp_path):
        pass


def test_leftovers_of_a_killed_run_are_removed(write, tmp_path):
    (tmp_path / f".{SHARD(0)}.tmp").write_bytes(b"half")
    write(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_data_loader_workers_read_the_same(write, tmp_path):
    write(tmp_path, dtype="int8")
    features = Features(tmp_path)
    features[0]
    loader = torch.utils.data.DataLoader(
        pickle.loads(pickle.dumps(features)), batch_size=3, num_workers=2, collate_fn=list
    )
    items = [item for batch in loader for item in batch]
    assert [item["index"] for item in items] == list(range(8))
    assert all(
        torch.equal(item["hidden_states"], features[item["index"]]["hidden_states"])
        for item in items
    )


def test_longest_conversations_come_first_and_batches_stay_within_their_tokens(
    write, tmp_path, monkeypatch
):
    shapes, plain = [], target_features.target_states
    monkeypatch.setattr(
        target_features,
        "target_states",
        lambda target, ids, layers: (shapes.append(tuple(ids.shape)), plain(target, ids, layers))[
            1
        ],
    )
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
            "'a' has 2 input_ids and 0 loss_mask values",
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
    from datasets import Dataset

    write(tmp_path / "list")
    write(tmp_path / "dataset", Dataset.from_list(examples))
    assert contents(tmp_path / "list") == contents(tmp_path / "dataset")


def test_any_fsspec_address_will_do(write, tmp_path):
    write(tmp_path)
    write("memory://features-test/deep")
    for here, there in zip(
        Features(tmp_path), Features("memory://features-test/deep"), strict=True
    ):
        assert torch.equal(here["aux_hidden_states"], there["aux_hidden_states"])
    assert json.loads((tmp_path / "index.json").read_text())["complete"] is True


@pytest.fixture
def bucket(monkeypatch):
    """(url, storage_options) of an empty bucket on an S3 server of our own, spoken to over HTTP."""
    s3fs, server = pytest.importorskip("s3fs"), pytest.importorskip("moto.server")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    options = {
        "key": "x",
        "secret": "x",
        "endpoint_url": "http://{}:{}".format(*running.get_host_and_port()),
    }
    s3fs.S3FileSystem(**options).mkdir("bucket")
    yield "s3://bucket/features", options
    running.stop()


def test_s3_bucket_holds_features_as_a_folder_does(examples, write, tmp_path, bucket):
    url, options = bucket
    with pytest.raises(ValueError, match="has no index.json"):
        Features(url, options)
    with pytest.raises(KeyboardInterrupt):
        write(url, Interrupted(examples, 11), storage_options=options)
    with pytest.raises(ValueError, match="was interrupted"):
        Features(url, options)
    assert write(url, storage_options=options).already_there > 0
    write(tmp_path)
    features = Features(url, options)
    assert {
        name: features.folder.fs.cat_file(f"bucket/features/{name}") for name in contents(tmp_path)
    } == contents(tmp_path)
    loader = torch.utils.data.DataLoader(features, batch_size=3, num_workers=2, collate_fn=list)
    for here, there in zip(
        Features(tmp_path), (item for batch in loader for item in batch), strict=True
    ):
        assert all(
            torch.equal(here[name], there[name])
            for name in ("input_ids", "aux_hidden_states", "hidden_states", "best")
        )
    features.folder.fs.pipe_file(f"bucket/features/{SHARD(1)}", b"short")
    with pytest.raises(ValueError, match=f"{SHARD(1)} of s3://bucket/features has 5 bytes"):
        Features(url, options)
