"""Offline features: what is read is what the target computes, and what is wrong is named."""

import os
import pickle

import pytest
import torch
from feature_folders import (
    LAYERS,
    LENGTHS,
    TEMPLATE,
    Interrupted,
    contents,
    float32_target,
    shard_name,
)
from fsspec.implementations.local import LocalFileSystem
from tiny import tiny_target
from torch.utils.data import DataLoader

from eagle_hf.data import Features
from eagle_hf.target import next_token_summary, target_logits, target_states

DTYPES = ["float32", "bfloat16", "int8"]


def features_alone(target, example):
    """(aux, states, best, log_normaliser) of one conversation by itself."""
    aux, states = target_states(target, torch.tensor([example["input_ids"]]), LAYERS)
    best, log_normaliser = next_token_summary(target, states[0])
    return aux[0], states[0], best, log_normaliser


def assert_close_by_token(found, expected, tolerance):
    """Every token's state is off by at most this share of its size."""
    error = (found.float() - expected).norm(dim=-1)
    assert (error <= tolerance * expected.norm(dim=-1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_come_back_in_the_order_given(examples, write, tmp_path, dtype):
    report = write(tmp_path, dtype=dtype)
    features = Features(tmp_path)
    assert len(features) == report.written == 8
    assert features.lengths == LENGTHS
    for number, (item, example) in enumerate(zip(features, examples, strict=True)):
        assert item["id"] == example["id"]
        assert item["index"] == number
        assert item["input_ids"].tolist() == example["input_ids"]
        assert item["loss_mask"].dtype == torch.bool
        assert item["loss_mask"].long().tolist() == example["loss_mask"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_come_back_as_the_target_computes_them(
    capture_target, examples, write, tmp_path, dtype
):
    write(tmp_path, dtype=dtype)
    read_as = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    tolerance = {"float32": 1e-5, "bfloat16": 2**-8, "int8": 0.02}[dtype]
    for item, example in zip(Features(tmp_path), examples, strict=True):
        aux, states, best, _ = features_alone(capture_target, example)
        assert item["best"].tolist() == best.tolist()
        assert item["aux_hidden_states"].dtype == read_as
        assert item["hidden_states"].dtype == read_as
        assert_close_by_token(item["aux_hidden_states"], aux, tolerance)
        assert_close_by_token(item["hidden_states"], states, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normaliser_belongs_to_the_states_that_are_read(capture_target, write, tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    for item in Features(tmp_path):
        logits = target_logits(capture_target, item["hidden_states"].float())
        probs = (logits - item["log_normaliser"][:, None]).exp()
        torch.testing.assert_close(probs.sum(-1), torch.ones(len(probs)), rtol=1e-4, atol=0)


def test_bfloat16_states_of_a_bfloat16_target_are_stored_exactly(examples, write, tmp_path):
    target = tiny_target(dtype=torch.bfloat16)
    write(tmp_path, target=target, dtype="bfloat16")
    aux, states, _, log_normaliser = features_alone(target, examples[3])
    item = Features(tmp_path)[3]  # one of the longest, so the target read it in a batch of its own
    assert torch.equal(item["aux_hidden_states"], aux)
    assert torch.equal(item["hidden_states"], states)
    assert torch.equal(item["log_normaliser"], log_normaliser)


@pytest.fixture
def reads(monkeypatch):
    """(file, bytes) of everything that is read from now on."""
    real_cat_file = LocalFileSystem.cat_file
    noted = []

    def cat_file(self, path, start=None, end=None, **kwargs):
        data = real_cat_file(self, path, start, end, **kwargs)
        noted.append((os.path.basename(path), len(data)))
        return data

    monkeypatch.setattr(LocalFileSystem, "cat_file", cat_file)
    return noted


def test_a_conversation_is_read_as_one_range_of_bytes(write, tmp_path, reads):
    write(tmp_path)
    reads.clear()
    features = Features(tmp_path)
    assert [name for name, _ in reads] == ["index.json"]
    reads.clear()
    for _ in range(2):
        features[1]
    header = features._shards[features._items[1].shard].header_bytes
    # Four bytes each of ids, best and normaliser; four states of 32; the mask padded to 20.
    size = 17 * (4 + 4 + 4 + 4 * 4 * 32) + 20
    assert [size for _, size in reads] == [header, size, size]


def test_examples_are_read_without_states(write, tmp_path, reads):
    write(tmp_path)
    features = Features(tmp_path)
    reads.clear()
    assert [example["id"] for example in features.examples()] == [f"c{n}" for n in range(8)]
    headers = sum(shard.header_bytes for shard in features._shards)
    assert sum(size for _, size in reads) < headers + 3000


def test_examples_are_what_was_captured(examples, write, tmp_path):
    write(tmp_path)
    assert list(Features(tmp_path).examples()) == examples


def flip_a_bit(path, offset):
    """Damage one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_damaged_conversation_is_named_and_the_others_are_read(write, tmp_path):
    write(tmp_path)
    features = Features(tmp_path)
    item = features._items[5]
    shard = shard_name(item.shard)
    start = features._shard_starts(item.shard)[item.number]
    flip_a_bit(tmp_path / shard, start + 700)
    with pytest.raises(ValueError, match=f"{shard} of .* is damaged at conversation 'c5'"):
        features[5]
    assert features[4]["id"] == "c4"


def test_damaged_header_and_vanished_shard_are_named(write, tmp_path):
    write(tmp_path, dtype="int8", shard_bytes=5000)
    features = Features(tmp_path)
    shard = tmp_path / shard_name(0)
    flip_a_bit(shard, 20)
    with pytest.raises(ValueError, match=f"{shard_name(0)} of .* is damaged in its header"):
        features[3]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard_name(0)} of .* cannot be read"):
        features[3]


def test_damaged_spread_is_named(write, tmp_path):
    write(tmp_path, dtype="int8", shard_bytes=5000)
    (tmp_path / "spread.safetensors").write_bytes(b"x")
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


def test_features_of_this_target_layer_set_and_template_are_accepted(
    capture_target, write, tmp_path
):
    write(tmp_path)
    features = Features(tmp_path)
    features.check(target=capture_target, layer_ids=LAYERS, template_sha256=TEMPLATE)
    features.check(target=capture_target, layer_ids=tuple(LAYERS))


def test_features_of_another_target_are_refused_by_name(write, tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="target_weights is .* there and .* now") as error:
        Features(tmp_path).check(target=float32_target(seed=1), layer_ids=LAYERS)
    assert "layer_ids is" not in str(error.value)


def test_features_of_another_layer_set_or_template_are_refused_by_name(
    capture_target, write, tmp_path
):
    write(tmp_path)
    differing = (
        r"layer_ids is \[2, 3, 4\] there and \[1, 2, 3\] now; template_sha256 is template there"
    )
    with pytest.raises(ValueError, match=differing):
        Features(tmp_path).check(
            target=capture_target, layer_ids=[1, 2, 3], template_sha256="other"
        )


def test_data_loader_workers_read_the_same(write, tmp_path):
    write(tmp_path, dtype="int8")
    features = Features(tmp_path)
    features[0]
    sent = pickle.loads(pickle.dumps(features))
    numbers = []
    for batch in DataLoader(sent, batch_size=3, num_workers=2, collate_fn=list):
        for item in batch:
            numbers.append(item["index"])
            expected = features[item["index"]]
            assert torch.equal(item["hidden_states"], expected["hidden_states"])
    assert numbers == list(range(8))


def test_any_fsspec_address_will_do(write, tmp_path):
    write(tmp_path)
    write("memory://features-test/deep")
    local = Features(tmp_path)
    remote = Features("memory://features-test/deep")
    for here, there in zip(local, remote, strict=True):
        assert torch.equal(here["aux_hidden_states"], there["aux_hidden_states"])


@pytest.fixture
def bucket(monkeypatch):
    """(url, storage_options) of an empty bucket on an S3 server of our own, reached over HTTP."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    options = {"key": "x", "secret": "x", "endpoint_url": f"http://{host}:{port}"}
    s3fs.S3FileSystem(**options).mkdir("bucket")
    yield "s3://bucket/features", options
    running.stop()


def test_s3_bucket_holds_features_as_a_folder_does(examples, write, tmp_path, bucket):
    url, options = bucket
    with pytest.raises(ValueError, match="has no index.json"):
        Features(url, options)
    # 1) an interrupted capture goes on, and writes what a local one writes
    with pytest.raises(KeyboardInterrupt):
        write(url, Interrupted(examples, 11), storage_options=options)
    with pytest.raises(ValueError, match="was interrupted"):
        Features(url, options)
    assert write(url, storage_options=options).already_there > 0
    write(tmp_path)
    features = Features(url, options)
    fs = features.folder.fs
    stored = {name: fs.cat_file(f"bucket/features/{name}") for name in contents(tmp_path)}
    assert stored == contents(tmp_path)
    # 2) workers read it
    remote = []
    for batch in DataLoader(features, batch_size=3, num_workers=2, collate_fn=list):
        remote += batch
    for here, there in zip(Features(tmp_path), remote, strict=True):
        for name in ("input_ids", "aux_hidden_states", "hidden_states", "best"):
            assert torch.equal(here[name], there[name])
    # 3) a truncated shard is named
    fs.pipe_file(f"bucket/features/{shard_name(1)}", b"short")
    with pytest.raises(ValueError, match=f"{shard_name(1)} of s3://bucket/features has 5 bytes"):
        Features(url, options)
