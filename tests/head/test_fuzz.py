"""Spoilt folders: each opens, or is refused by a ValueError or OSError.

Both take little memory and time. The seed of a failure is in its message, so the order of random
draws here matters.
"""

import json
import random
import resource
import struct
import time
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_dialects import original, write_head
from transformers.utils import logging

from eagle_hf import Eagle3DraftHead
from eagle_hf.head.dialects import DIALECTS

KINDS = ["safetensors", "safetensors shards", "bin", "bin shards"]
VALUES = [
    0,
    1,
    -1,
    3,
    2**31,
    2**62,
    10**25,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    "",
    "x" * 300,
    "../..",
    "float16",
    "load",
    "yarn",
    [],
    {},
    [1, 2, 3],
    [[]],
    [None, "a"],
    list(range(500)),
    ["../x"],
    {"peft_type": "LORA"},
    {"depth": 10**12},
    {"rope_type": "yarn"},
    {"type": "dynamic", "factor": 0},
    {"tree": {"parents": [0, 0, 9], "ranks": [0, 0]}},
    {"rope_type": "longrope", "factor": -1, "short_factor": [1.0], "long_factor": [1.0]},
    {"eagle_aux_hidden_state_layer_ids": [1, -2, 2**70]},
]
KEYS = [
    "quantization_config",
    "auto_map",
    "_name_or_path",
    "to_dict",
    "num_aux_hidden_states",
    "fc_norm",
    "norm_output",
    "rope_parameters",
    "rope_scaling",
    "eagle_hf",
    "eagle_config",
    "speculators_model_type",
    "transformer_layer_config",
    "_torchspec_version",
    "attention_bias",
    "per_layer_config",
    "sliding_window",
    "num_labels",
]


def nested(rng):
    depth = rng.choice([30, 300, 3000, 300000])
    return rng.choice(['{"a":' * depth + "1" + "}" * depth, "[" * depth + "]" * depth])


def spoil_bytes(rng, file, most=None):
    """Some bytes changed, the end cut off, or something appended; among the first `most` bytes."""
    data = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(min(len(data), most or len(data)))] = rng.randrange(256)
    kind = rng.random()
    if kind < 0.2:
        data = data[: rng.randrange(len(data))]
    elif kind < 0.3:
        data += b"\0" * rng.randint(1, 99)
    file.write_bytes(bytes(data))


def spoil_table(rng, table):
    """One entry of a JSON table, or of a table in it, changed, removed or added."""
    inner = [value for value in table.values() if isinstance(value, dict) and value]
    if inner and rng.random() < 0.5:
        return spoil_table(rng, rng.choice(inner))
    key = rng.choice(KEYS)
    if table:
        key = rng.choice([*table, *table, key])
    if rng.random() < 0.2:
        table.pop(key, None)
    else:
        table[key] = deepcopy(rng.choice(VALUES))


def spoil_config(rng, folder):
    """Settings in config.json, its bytes, a key that is there twice, or another JSON altogether."""
    file = folder / "config.json"
    kind = rng.random()
    config = json.loads(file.read_text())
    if kind < 0.1:
        return spoil_bytes(rng, file)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        spoil_table(rng, config)
    text = json.dumps(config)
    if kind < 0.2:
        name = rng.choice([*config, "eagle_hf"])
        value = rng.choice([nested(rng), "9" * 5000, "1" + "0" * 400, "1e999999"])
        text = f'{text[:-1]}, "{name}": {value}}}'
    if kind > 0.97:
        text = rng.choice([nested(rng), "[1]", "null", "7"])
    file.write_text(text)


def spoil_header(rng, folder):
    """The header of a safetensors file: its length, or one tensor's entry."""
    file = rng.choice(sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")))
    if file.suffix == ".bin" or rng.random() < 0.25:
        return spoil_bytes(rng, file, most=rng.choice([8, 300, 3000]))
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    name = rng.choice(sorted(set(header) - {"__metadata__"}))
    change = rng.choice(["length", "shape", "dtype", "offsets", "name", "copy", "odd", "deep"])
    spoil_entry(rng, header, name, change)
    text = (nested(rng) if change == "deep" else json.dumps(header)).encode()
    announced = len(text)
    if change == "length":
        announced = rng.choice([0, 1, 2**20, 2**40, 2**63, 2**64 - 1, len(text) - 1])
    file.write_bytes(struct.pack("<Q", announced) + text + body)


def spoil_entry(rng, header, name, change):
    """One tensor's dtype, shape, offsets or name."""
    if change == "shape":
        shape = header[name]["shape"] or [1]
        shape[rng.randrange(len(shape))] = rng.choice([0, 1, 2**31, 2**62, 2**64 - 1, -1, 3])
        header[name]["shape"] = rng.choice([shape, [], [2**32, 2**32], shape * 40, [0, 10**18]])
    elif change == "dtype":
        header[name]["dtype"] = rng.choice(["F16", "I64", "BOOL", "F8_E4M3", "F4", "U8", "X9", 7])
    elif change == "offsets":
        swapped = header[name]["data_offsets"][::-1]
        beyond = [[0, 2**60], [2**40, 2**41]]
        odd = [[8, 0], [0, 0], [-1, 5], [0]]
        header[name]["data_offsets"] = rng.choice([*beyond, *odd, swapped])
    elif change == "name":
        entry = header.pop(name)
        other = rng.choice(["../x", "d2t", "lm_head.weight", "layers.1.x", "a" * 5000, ""])
        header[other] = entry
    elif change == "copy":
        header[rng.choice(["midlayer.norm", "fc.bias", "model.fc.weight"])] = header[name]
    elif change == "odd":
        header[name] = rng.choice(VALUES)


def spoil_index(rng, folder):
    """Names of shards and tensors in an index; the header where there is no index."""
    indices = sorted(folder.glob("*.index.json"))
    if not indices:
        return spoil_header(rng, folder)
    index = json.loads(indices[0].read_text())
    places = index["weight_map"]
    name = rng.choice(sorted(places))
    files = sorted(set(places.values()))
    places[name] = rng.choice(
        [
            "../" + files[0],
            "/dev/zero",
            "..",
            ".",
            "",
            "\0",
            "model.safetensors",
            "x" * 5000 + ".safetensors",
            files[-1],
            "nul.bin",
            3,
            None,
        ]
    )
    if rng.random() < 0.3:
        places.pop(rng.choice(sorted(places)))
    if rng.random() < 0.3:
        index["weight_map"] = rng.choice(VALUES)
    indices[0].write_text(nested(rng) if rng.random() < 0.1 else json.dumps(index))


def spoil_map(rng, folder):
    """Other draft vocabularies."""
    for file in sorted(folder.glob("*.safetensors")):
        weights = load_file(file)
        for name in sorted({"d2t", "t2d"} & set(weights)):
            odd = rng.choice([-1, 0, 1, 31, 2**31, 2**63 - 1, -(2**63)])
            tensor = weights[name]
            tensor = rng.choice(
                [
                    torch.full((24,), odd),
                    torch.arange(24) * odd,
                    tensor.flip(0),
                    tensor[:-1],
                    tensor.float(),
                    tensor[:, None],
                ]
            )
            if name == "d2t" and rng.random() < 0.5:
                tensor = weights[name].clone()
                tensor[rng.randrange(24)] += rng.choice([odd, 1, -1])
            weights[name] = tensor.contiguous()
        save_file(weights, file)


SPOILERS = [spoil_config, spoil_config, spoil_header, spoil_index, spoil_map]


@contextmanager
def little_memory(room=2**30):
    """Address space for one GiB more than is taken, so allocating what a file announces fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def address_space():
    """Bytes of address space that this process has taken."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmSize"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/self/status has no VmSize")


def opens(rng, folder, dialect, head, kind):
    """Whether a spoilt copy of the head still opens; other errors than refusals are raised."""
    write_head(head, dialect, folder, kind)
    rng.choice(SPOILERS)(rng, folder)
    began = time.monotonic()
    try:
        Eagle3DraftHead.from_pretrained(folder)
        return True
    except (ValueError, OSError) as error:
        assert "alloc" not in str(error), error
        assert len(str(error)) < 10_000
        return False
    finally:
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("first, last", [(0, 500), pytest.param(500, 2000, marks=pytest.mark.slow)])
def test_spoilt_folders_open_or_are_refused(target, tmp_path, first, last):
    heads = {dialect: original(target, dialect) for dialect in DIALECTS}
    opened = 0
    logging.set_verbosity_error()
    try:
        with little_memory():
            for seed in range(first, last):
                rng = random.Random(seed)
                dialect = rng.choice(DIALECTS)
                kind = rng.choice(KINDS)
                try:
                    opened += opens(rng, tmp_path / str(seed), dialect, heads[dialect], kind)
                except Exception as error:
                    raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        logging.set_verbosity_warning()
    assert 0.02 < opened / (last - first) < 0.7  # neither harmless nor hopeless
