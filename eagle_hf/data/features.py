"""Offline features: what the target makes of conversations, written once (`capture_features`), read lazily here.

    folder/features-00000.safetensors ...   the states of many conversations each (see shards.py)
    folder/spread.safetensors               with int8: the usual size of every dimension
    folder/index.json                       who made it, and of every conversation its place and checksums

The folder is local or on anything fsspec opens, s3://bucket/folder for one. Opening reads the index and lists the folder;
a conversation is read, as one range of bytes, when it is asked for.

S sequence, H hidden.
"""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from copy import copy
from typing import NamedTuple

import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import load

from eagle_hf.data.shards import Layout, conversation_starts, dequantise
from eagle_hf.provenance import weights_fingerprint

INDEX, SPREAD, FORMAT = "index.json", "spread.safetensors", 1
READ_AT_ONCE = 256  # conversations whose tokens are fetched together
AGAIN = "delete that file and run the capture again, which writes only what is missing"


class Folder:
    """A folder on any file system, opened anew in every process: connections do not survive a fork."""

    def __init__(self, url, storage_options: dict | None = None):
        self.url, self.options, self._process = str(url), dict(storage_options or {}), os.getpid()
        try:
            self._fs, path = url_to_fs(self.url, **self.options)
        except ImportError as error:
            raise ValueError(
                f"{self.url} cannot be opened ({error}); install that package"
            ) from error
        self.path, self.is_local = path.rstrip("/"), isinstance(self._fs, LocalFileSystem)

    @property
    def fs(self):
        if self._process != os.getpid():
            self._fs, self._process = url_to_fs(self.url, **self.options)[0], os.getpid()
        return self._fs

    def __getstate__(self):
        return self.__dict__ | {"_fs": None, "_process": None}

    def file(self, name: str) -> str:
        """The path of a file of the folder, as its file system wants it."""
        return f"{self.path}/{name}"

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in the folder, by name; none where there is no folder."""
        self.fs.invalidate_cache(self.path)
        try:
            entries = self.fs.ls(self.path, detail=True)
        except FileNotFoundError:
            return {}
        files = {
            entry["name"].rsplit("/", 1)[-1]: entry for entry in entries if entry["type"] == "file"
        }
        return {
            name: self.fs.size(entry["name"]) if entry["size"] is None else entry["size"]
            for name, entry in files.items()
        }

    def index(self) -> dict | None:
        """The folder's index.json, None where there is none."""
        try:
            index = json.loads(self.fs.cat_file(self.file(INDEX)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(
                f"{INDEX} of {self.url} is not JSON ({error}); delete the folder and capture again"
            ) from error
        found = index.get("format") if isinstance(index, dict) else index
        if found != FORMAT:
            raise ValueError(
                f"{INDEX} of {self.url} has the format {found!r} and this version reads {FORMAT}; update eagle_hf or capture again"
            )
        return index

    def spread(self, index: dict) -> torch.Tensor:
        """The dimensions' usual sizes [streams, H] that int8 states were divided by."""
        try:
            data = self.fs.cat_file(self.file(SPREAD))
        except FileNotFoundError:
            data = b""
        if zlib.crc32(data) != index["spread_crc32"]:
            raise ValueError(
                f"{SPREAD} of {self.url} is missing or damaged, and no state can be read without it; delete the folder and capture again"
            )
        return load(data)["spread"]


class _Item(NamedTuple):
    """Where a conversation lies: its shard, its number there, and the checksums of its tokens and states."""

    id: str
    shard: int
    number: int
    length: int
    crc32: tuple[int, int]


class Features(torch.utils.data.Dataset):
    """The conversations of a folder that `capture_features` wrote, in the order in which they were given to it.

    `features[i]`: id, index (i), input_ids and best LongTensor [S], loss_mask BoolTensor [S], log_normaliser [S] float32,
    aux_hidden_states [S, 3H] and hidden_states [S, H] in bfloat16, or in float32 where float32 or int8 is stored.
    best: the target's argmax after each token. log_normaliser: of all V logits of hidden_states as they are read.

    url: a folder or any fsspec URL; storage_options go to its file system. It can be pickled, and each DataLoader
    worker opens the file system for itself. A folder that is unfinished, or has a shard missing or truncated, is a
    ValueError at once; a damaged conversation when it is read. Both name the shard.
    """

    def __init__(self, url, storage_options: dict | None = None):
        self.folder = Folder(url, storage_options)
        index = self.folder.index()
        if index is None:
            raise ValueError(
                f"{url} has no {INDEX}; give the folder that capture_features wrote, or run the capture"
            )
        if not index["complete"]:
            raise ValueError(
                f"the capture of {url} was interrupted; run it again with the same settings, and it goes on where it was"
            )
        self.manifest = {name: value for name, value in index.items() if name != "shards"}
        self.layout = Layout(index["hidden_size"], len(index["layer_ids"]) + 1, index["dtype"])
        self._shards = [
            (shard["name"], shard["bytes"], shard["header"]) for shard in index["shards"]
        ]
        self._check_sizes()
        self.spread = self.folder.spread(index) if index["dtype"] == "int8" else None
        self._items = _items(index["shards"])
        self.lengths = [item.length for item in self._items]
        self._starts: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Several conversations, fetched together: what a DataLoader asks for."""
        indices = [range(len(self))[index] for index in indices]
        items = [self._items[index] for index in indices]
        return [
            self._tensors(index, item, data)
            for index, item, data in zip(indices, items, self._fetch(items, 2))
        ]

    def select(self, indices: Sequence[int]) -> "Features":
        """The features of these conversations only, in this order."""
        chosen = copy(self)
        chosen._items = [self._items[index] for index in indices]
        chosen.lengths = [item.length for item in chosen._items]
        return chosen

    def examples(self) -> Iterator[dict]:
        """`{"id", "input_ids", "loss_mask"}` of every conversation as lists, without reading any states."""
        for start in range(0, len(self), READ_AT_ONCE):
            items = self._items[start : start + READ_AT_ONCE]
            for item, data in zip(items, self._fetch(items, 1)):
                tensors = self.layout.decode(data, item.length)
                yield {"id": item.id} | {name: tensor.tolist() for name, tensor in tensors.items()}

    def check(
        self, *, target, layer_ids: Sequence[int], template_sha256: str | None = None
    ) -> None:
        """ValueError naming what differs when these features are not this target's, of these layers, in this template."""
        wanted = {"target_weights": weights_fingerprint(target), "layer_ids": list(layer_ids)}
        if template_sha256 is not None:
            wanted["template_sha256"] = template_sha256
        found = self.manifest
        differing = [
            f"{name} is {found[name]} there and {value} now"
            for name, value in wanted.items()
            if found[name] != value
        ]
        if differing:
            raise ValueError(
                f"{self.folder.url} holds features of the target {found['target']!r}, which do not fit: {'; '.join(differing)}; "
                "use that target, layers and template, or capture into another folder"
            )

    def _check_sizes(self) -> None:
        found = self.folder.sizes()
        for name, size, _ in self._shards:
            if found.get(name) != size:
                state = (
                    f"has {found[name]} bytes, the index says {size}: it is truncated"
                    if name in found
                    else "is missing"
                )
                raise ValueError(f"{name} of {self.folder.url} {state}; {AGAIN}")

    def _fetch(self, items: list[_Item], parts: int) -> list[bytes]:
        """The bytes of the conversations' tokens (parts 1), or of tokens and states (parts 2), checked."""
        sizes = [self.layout.sizes(item.length)[:parts] for item in items]
        starts = [self._shard_starts(item.shard)[item.number] for item in items]
        files = [self.folder.file(self._shards[item.shard][0]) for item in items]
        ends = [start + sum(size) for start, size in zip(starts, sizes)]
        found = self.folder.fs.cat_ranges(files, starts, ends, on_error="return")
        for item, size, data in zip(items, sizes, found):
            self._check_bytes(item, size, data)
        return found

    def _check_bytes(self, item: _Item, sizes: Sequence[int], data) -> None:
        place = f"{self._shards[item.shard][0]} of {self.folder.url}"
        if isinstance(data, Exception):
            reason = f"{type(data).__name__}: {data}"
            raise ValueError(
                f"{place} cannot be read at conversation {item.id!r} ({reason}); check the connection, or {AGAIN}"
            ) from data
        view = memoryview(data)
        checksums = [zlib.crc32(part) for part in (view[: sizes[0]], view[sizes[0] :])][
            : len(sizes)
        ]
        if len(data) != sum(sizes) or checksums != list(item.crc32[: len(sizes)]):
            raise ValueError(
                f"{place} is damaged at conversation {item.id!r} (its checksum differs); {AGAIN}"
            )

    def _shard_starts(self, shard: int) -> list[int]:
        """Where each conversation of a shard begins: its header, read once."""
        if shard not in self._starts:
            name, _, header = self._shards[shard]
            try:
                data = self.folder.fs.cat_file(self.folder.file(name), start=0, end=header["bytes"])
            except OSError as error:
                raise ValueError(
                    f"{name} of {self.folder.url} cannot be read ({error}); check the connection, or {AGAIN}"
                ) from error
            if zlib.crc32(data) != header["crc32"]:
                raise ValueError(
                    f"{name} of {self.folder.url} is damaged in its header (the checksum differs); {AGAIN}"
                )
            self._starts[shard] = conversation_starts(data)
        return self._starts[shard]

    def _tensors(self, index: int, item: _Item, data: bytes) -> dict:
        tensors = self.layout.decode(data, item.length)
        aux, states = tensors["aux_hidden_states"], tensors["hidden_states"]
        if self.spread is not None:
            streams = torch.cat([aux, states], dim=-1).unflatten(-1, (self.layout.streams, -1))
            streams = dequantise(streams, tensors["scales"], self.spread)
            aux, states = streams[:, :-1].flatten(1), streams[:, -1]
        return {
            "id": item.id,
            "index": index,
            "input_ids": tensors["input_ids"].long(),
            "loss_mask": tensors["loss_mask"].bool(),
            "aux_hidden_states": aux,
            "hidden_states": states,
            "best": tensors["best"].long(),
            "log_normaliser": tensors["log_normaliser"],
        }


def _items(shards: list[dict]) -> list[_Item]:
    """All conversations of an index, back in the order of the examples."""
    items = {}
    for place, shard in enumerate(shards):
        for number, entry in enumerate(shard["conversations"]):
            items[entry["row"]] = _Item(
                entry["id"], place, number, entry["tokens"], tuple(entry["crc32"])
            )
    return [items[row] for row in sorted(items)]
