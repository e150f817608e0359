"""The tensors of a head's weight files, of any kind, still unread."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from eagle_hf.head.opening.files import contained, read_json
from eagle_hf.head.opening.pickles import unpickle

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MAX_HEADER_BYTES = 2**24  # a head's header has a few KB


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in its file.

    Args:
        shape: Its shape.
        read: Makes a copy of it, so the file may be written over afterwards.
    """

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


def stored_tensors(
    source: str | Path,
    hub: dict[str, Any],
    files: ExitStack,
    safetensors: bool | None = None,
) -> dict[str, Stored]:
    """List every tensor of the first weight file that is there, or of its shards.

    Args:
        source: A folder or hub id.
        hub: Options of the hub.
        files: Keeps the files open for reading.
        safetensors: Whether to take safetensors alone (True), pickles alone (False) or either.

    Returns:
        The tensors by name.

    Raises:
        ValueError: There is no such file, or it is damaged or unsafe.
    """
    names = WEIGHT_FILES
    if safetensors is not None:
        names = tuple(name for name in names if ("safetensors" in name) == safetensors)
    for name in names:
        file = _find(source, name, hub)
        if file is None:
            continue
        if name.endswith(".json"):
            return _list_shards(file, source, hub, files)
        return _list_tensors(file, files)
    raise ValueError(
        f"{source} holds a config.json but no readable weight file (looked for "
        f"{', '.join(names)}); copy or download model.safetensors again"
    )


def _find(source: str | Path, name: str, hub: dict[str, Any]) -> Path | None:
    """The file of this name, if there is one; it lies in its folder."""
    file = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
    return None if file is None else contained(file, source)


def _list_shards(
    index: Path, source: str | Path, hub: dict[str, Any], files: ExitStack
) -> dict[str, Stored]:
    """The tensors of all shards that an index names."""
    weight_map = _read_weight_map(index)
    stored: dict[str, Stored] = {}
    for shard in sorted(set(weight_map.values())):
        file = _find(source, shard, hub)
        if file is None:
            raise ValueError(
                f"{index} names {shard}, which is not there; copy or download it again"
            )
        found = _list_tensors(file, files)
        listed = {name for name, its_shard in weight_map.items() if its_shard == shard}
        if set(found) != listed:
            raise ValueError(
                f"{shard} and its index disagree about {sorted(set(found) ^ listed)!s:.200}; "
                "download both again"
            )
        stored |= found
    return stored


def _read_weight_map(index: Path) -> dict[str, str]:
    """The names of the shards by those of the tensors; every shard lies beside the index."""
    weight_map = read_json(index).get("weight_map")
    is_table = isinstance(weight_map, dict)
    if not is_table or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files; download it again")
    suffix = index.name.split(".")[1]  # of model.safetensors.index.json
    for shard in set(weight_map.values()):
        is_plain_name = re.fullmatch(r"[\w-][\w.-]*", shard)
        if not is_plain_name or not shard.endswith(f".{suffix}"):
            raise ValueError(
                f"{index} names the file {shard!r:.80}; shards lie beside it and end with .{suffix}"
            )
    return weight_map


def _list_tensors(file: Path, files: ExitStack) -> dict[str, Stored]:
    """The tensors of one file."""
    stored = {}
    if file.suffix == ".bin":
        for name, tensor in unpickle(file).items():
            stored[name] = Stored(tuple(tensor.shape), tensor.clone)
        return stored
    _check_header(file)
    opened = files.enter_context(safe_open(file, framework="pt"))
    names = opened.keys()  # `opened` is no dictionary, and cannot be looped over
    for name in names:
        shape = tuple(opened.get_slice(name).get_shape())
        stored[name] = Stored(shape, partial(_read_copy, opened, name))
    return stored


def _check_header(file: Path) -> None:
    """Refuse a safetensors file whose header announces more than there is, or than it can need."""
    with file.open("rb") as stream:
        announced = int.from_bytes(stream.read(8), "little")
    size = file.stat().st_size
    if announced > min(size - 8, MAX_HEADER_BYTES):
        raise SafetensorError(f"a header of {announced} bytes in a file of {size}")


def _read_copy(opened: Any, name: str) -> torch.Tensor:
    return opened.get_tensor(name).clone()
