"""Offline features: `capture_features` writes them once, `Features` reads them lazily.

Opening reads the index and lists the folder. A conversation is read, as one range of bytes, when
it is asked for. See folder.py for the files and shards.py for their contents.

S tokens of a conversation, H hidden size.
"""

import zlib
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from eagle_hf.data.features.folder import INDEX, Folder
from eagle_hf.data.features.shards import Layout, conversation_starts
from eagle_hf.data.features.target_features import restore_features
from eagle_hf.data.rows import CapturedExample, Example
from eagle_hf.provenance import weights_fingerprint

READ_AT_ONCE = 256  # conversations whose tokens are fetched together
AGAIN = "delete that file and run the capture again, which writes only what is missing"


class _Shard(NamedTuple):
    """What the index says about a shard: its size, and the size and checksum of its header."""

    name: str
    nbytes: int
    header_bytes: int
    header_crc32: int


class _Item(NamedTuple):
    """Where a conversation lies: the number of its shard, and its own number in there.

    The checksums are of its tokens and of its states.
    """

    id: str
    shard: int
    number: int
    length: int
    crc32: tuple[int, int]


class Features(torch.utils.data.Dataset):
    """The conversations of a folder that `capture_features` wrote, in the order of its examples.

    `features[i]` is a `CapturedExample`:

        id                  of the conversation
        index               i
        input_ids           int64 [S]
        loss_mask           bool [S]
        aux_hidden_states   [S, 3H], bfloat16; float32 where float32 or int8 is stored
        hidden_states       [S, H], of the same type
        best                int64 [S], the target's argmax after each token
        log_normaliser      float32 [S], of all logits of `hidden_states` as they are read

    The object can be pickled, and each DataLoader worker opens the file system for itself.

    Args:
        url: a local folder, or anything fsspec opens, such as s3://bucket/folder.
        storage_options: for its file system.

    Raises:
        ValueError: the folder is unfinished, or a shard is missing or truncated. A damaged
            conversation raises it when it is read. All of them name the shard.

    Attributes:
        ids: of every example.
        lengths: tokens of every example.
        manifest: what made the folder: target, layers, template, settings, versions.
    """

    def __init__(self, url: str | Path, storage_options: dict[str, Any] | None = None):
        self.folder = Folder(url, storage_options)
        index = self.folder.read_index()
        if index is None:
            raise ValueError(
                f"{url} has no {INDEX}; give the folder that capture_features wrote, "
                "or run the capture"
            )
        if not index["complete"]:
            raise ValueError(
                f"the capture of {url} was interrupted; run it again with the same settings, "
                "and it goes on where it was"
            )
        self.manifest = {name: value for name, value in index.items() if name != "shards"}
        # The aux hidden states and the final one.
        num_states = len(index["layer_ids"]) + 1
        self.layout = Layout(index["hidden_size"], num_states, index["dtype"])
        self._shards = _read_shards(index["shards"])
        self._check_sizes()
        is_int8 = index["dtype"] == "int8"
        self.spread = self.folder.read_spread(index) if is_int8 else None
        self._starts: dict[int, list[int]] = {}  # by shard, see _shard_starts
        self._use(_read_items(index["shards"]))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> CapturedExample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[CapturedExample]:
        """Several conversations, fetched together; a DataLoader asks in this way."""
        numbers = [range(len(self))[index] for index in indices]  # -1 is the last one
        items = [self._items[number] for number in numbers]
        examples = []
        for number, item, data in zip(numbers, items, self._fetch(items), strict=True):
            examples.append(self._decode(number, item, data))
        return examples

    def select(self, indices: Sequence[int]) -> "Features":
        """Choose conversations.

        Args:
            indices: of conversations, in the order wanted.

        Returns:
            Features of these alone. Nothing is copied on disk.
        """
        chosen = copy(self)
        chosen._use([self._items[index] for index in indices])
        return chosen

    def _use(self, items: list[_Item]) -> None:
        """Serve these conversations, in this order."""
        self._items = items
        self.ids = [item.id for item in items]
        self.lengths = [item.length for item in items]

    def examples(self) -> Iterator[Example]:
        """Read the tokens of every conversation, without reading any states.

        Yields:
            `Example`s whose `input_ids` and `loss_mask` are lists.
        """
        for start in range(0, len(self), READ_AT_ONCE):
            items = self._items[start : start + READ_AT_ONCE]
            for item, data in zip(items, self._fetch(items, tokens_only=True), strict=True):
                tensors = self.layout.decode(data, item.length)
                yield {
                    "id": item.id,
                    "input_ids": tensors["input_ids"].tolist(),
                    "loss_mask": tensors["loss_mask"].tolist(),
                }

    def check(
        self,
        *,
        target: PreTrainedModel,
        layer_ids: Sequence[int],
        template_sha256: str | None = None,
    ) -> None:
        """Refuse features of another target, other layers, or another chat template.

        Args:
            target: recognized by its weights.
            layer_ids: of the aux hidden states.
            template_sha256: of the chat template. None: any will do.

        Raises:
            ValueError: names all that differs.
        """
        wanted: dict[str, Any] = {
            "target_weights": weights_fingerprint(target),
            "layer_ids": list(layer_ids),
        }
        if template_sha256 is not None:
            wanted["template_sha256"] = template_sha256
        differing = []
        for name, value in wanted.items():
            if self.manifest[name] != value:
                differing.append(f"{name} is {self.manifest[name]} there and {value} now")
        if differing:
            raise ValueError(
                f"{self.folder.url} holds features of the target {self.manifest['target']!r}, "
                f"which do not fit: {'; '.join(differing)}; "
                "use that target, layers and template, or capture into another folder"
            )

    def _check_sizes(self) -> None:
        """Refuse a folder with a shard missing or truncated."""
        found = self.folder.sizes(nested=any("/" in shard.name for shard in self._shards))
        for shard in self._shards:
            if shard.name not in found:
                state = "is missing"
            elif found[shard.name] != shard.nbytes:
                state = (
                    f"has {found[shard.name]} bytes, the index says {shard.nbytes}: it is truncated"
                )
            else:
                continue
            raise ValueError(f"{shard.name} of {self.folder.url} {state}; {AGAIN}")

    def _fetch(self, items: list[_Item], tokens_only: bool = False) -> list[bytes]:
        """The bytes of the conversations, or of their tokens alone, checked."""
        files = []
        starts = []
        ends = []
        sizes = []
        for item in items:
            nbytes = self.layout.count_bytes(item.length)
            part_sizes = [nbytes.tokens] if tokens_only else [nbytes.tokens, nbytes.states]
            start = self._shard_starts(item.shard)[item.number]
            files.append(self.folder.file(self._shards[item.shard].name))
            starts.append(start)
            ends.append(start + sum(part_sizes))
            sizes.append(part_sizes)
        # An error comes back in its place, so that it can be named after its conversation.
        found = self.folder.fs.cat_ranges(files, starts, ends, on_error="return")
        for item, part_sizes, data in zip(items, sizes, found, strict=True):
            self._check_bytes(item, part_sizes, data)
        return found

    def _check_bytes(self, item: _Item, sizes: list[int], data: bytes | Exception) -> None:
        """Refuse bytes that could not be read, or whose parts have other checksums."""
        place = f"{self._shards[item.shard].name} of {self.folder.url}"
        if isinstance(data, Exception):
            reason = f"{type(data).__name__}: {data}"
            raise ValueError(
                f"{place} cannot be read at conversation {item.id!r} ({reason}); "
                f"check the connection, or {AGAIN}"
            ) from data
        is_whole = len(data) == sum(sizes)
        view = memoryview(data)  # slices are no copies
        start = 0
        for size, expected in zip(sizes, item.crc32, strict=False):  # sizes may be of tokens alone
            is_whole = is_whole and zlib.crc32(view[start : start + size]) == expected
            start += size
        if not is_whole:
            raise ValueError(
                f"{place} is damaged at conversation {item.id!r} (its checksum differs); {AGAIN}"
            )

    def _shard_starts(self, number: int) -> list[int]:
        """Where each conversation of a shard begins; its header is read once."""
        if number in self._starts:
            return self._starts[number]
        shard = self._shards[number]
        path = self.folder.file(shard.name)
        try:
            header = self.folder.fs.cat_file(path, start=0, end=shard.header_bytes)
        except OSError as error:
            raise ValueError(
                f"{shard.name} of {self.folder.url} cannot be read ({error}); "
                f"check the connection, or {AGAIN}"
            ) from error
        # A wrong offset would blame a conversation that is whole.
        if zlib.crc32(header) != shard.header_crc32:
            raise ValueError(
                f"{shard.name} of {self.folder.url} is damaged in its header "
                f"(the checksum differs); {AGAIN}"
            )
        self._starts[number] = conversation_starts(header)
        return self._starts[number]

    def _decode(self, number: int, item: _Item, data: bytes) -> CapturedExample:
        """The conversation that `data` holds, in the types that training computes with."""
        tensors = self.layout.decode(data, item.length)
        features = restore_features(tensors, self.layout, self.spread)
        return {
            "id": item.id,
            "index": number,
            "input_ids": tensors["input_ids"].long(),
            "loss_mask": tensors["loss_mask"].bool(),
            "aux_hidden_states": features.aux_hidden_states,
            "hidden_states": features.hidden_states,
            "best": features.best,
            "log_normaliser": features.log_normaliser,
        }


def _read_shards(entries: list[dict[str, Any]]) -> list[_Shard]:
    """The shards of an index."""
    shards = []
    for entry in entries:
        header = entry["header"]
        shards.append(_Shard(entry["name"], entry["bytes"], header["bytes"], header["crc32"]))
    return shards


def _read_items(entries: list[dict[str, Any]]) -> list[_Item]:
    """All conversations of an index, back in the order of the examples."""
    items = {}
    for shard, entry in enumerate(entries):
        for number, conversation in enumerate(entry["conversations"]):
            items[conversation["row"]] = _Item(
                id=conversation["id"],
                shard=shard,
                number=number,
                length=conversation["tokens"],
                crc32=tuple(conversation["crc32"]),
            )
    return [items[row] for row in sorted(items)]
