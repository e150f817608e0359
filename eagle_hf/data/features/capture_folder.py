"""The folder that a capture writes to, and its index of what is finished.

A file stands whole under its name or not at all, and the index names a shard only once it stands.
So whatever an interrupted run leaves behind can be taken over by the next one.
"""

import json
import shutil
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch
from safetensors.torch import save

from eagle_hf.data.features.capture_plan import ShardPlan
from eagle_hf.data.features.folder import INDEX, SPREAD, DiskFullError, Folder

# Fields of the index that two runs in one folder must have in common.
SETTINGS = (
    "target_weights",
    "template_sha256",
    "layer_ids",
    "dtype",
    "batch_tokens",
    "shard_bytes",
    "examples_sha256",
    "states_from",
)
FORMER = {"states_from": "target"}  # fields that older folders lack, and what they stand for
INDEX_BYTES = 400  # at most, for each conversation, for the index and its next version


class CaptureFolder:
    """The files of a capture.

    Args:
        folder: local or remote.
        settings: what makes the folder; they become the fields of the index.
        planned: all shards that the folder will have.

    Attributes:
        spread: with int8, what states are divided by, shape [n, H]; None until it is measured.
    """

    def __init__(self, folder: Folder, settings: dict[str, Any], planned: list[ShardPlan]):
        self.folder = folder
        self.planned = planned
        self.spread: torch.Tensor | None = None
        self._index: dict[str, Any] = {**settings, "complete": False, "shards": []}

    @property
    def finished_shards(self) -> list[dict[str, Any]]:
        """Their entries in the index, in the order of the plan."""
        return self._index["shards"]

    def take_over_finished(self) -> None:
        """Take over an earlier run's index, without the shards that are missing or truncated.

        Raises:
            ValueError: the folder holds other examples, was made with other settings, or holds
                safetensors files that no capture wrote.
        """
        found = self.folder.read_index()
        sizes = self.folder.sizes()
        if found is None:
            self._check_no_weights(list(sizes))
            return
        # An index without a shard binds nobody to its settings.
        if not found["shards"]:
            return
        self._check_settings(found)
        # The index keeps the versions and the target's name of the run that began it.
        self._index = found
        self._set_shards(
            [shard for shard in found["shards"] if sizes.get(shard["name"]) == shard["bytes"]]
        )
        if found["dtype"] == "int8":
            self.spread = self.folder.read_spread(found)

    def _set_shards(self, shards: list[dict[str, Any]]) -> None:
        self._index["shards"] = shards
        self._index["complete"] = len(shards) == len(self.planned)

    def _check_no_weights(self, names: list[str]) -> None:
        """Refuse to write among safetensors files of something else, a model's weights say."""
        if any(name.endswith(".safetensors") for name in names):
            raise ValueError(
                f"{self.folder.url} holds safetensors files but no {INDEX}; "
                "choose another folder or delete this one"
            )

    def _check_settings(self, found: dict[str, Any]) -> None:
        differing = []
        for name in SETTINGS:
            value = found[name] if name in found else FORMER[name]
            if value != self._index[name]:
                differing.append(f"{name} is {value} there and {self._index[name]} now")
        if differing:
            raise ValueError(
                f"{self.folder.url} holds features of the target {found['target']!r} made with "
                f"other settings: {'; '.join(differing)}; choose another folder or delete this one"
            )

    def missing_shards(self) -> list[ShardPlan]:
        """The planned shards that are not finished."""
        finished = {shard["name"] for shard in self.finished_shards}
        return [shard for shard in self.planned if shard.name not in finished]

    def check_disk(self) -> None:
        """Refuse a local disk that cannot hold the missing shards."""
        missing = self.missing_shards()
        if not self.folder.is_local or not missing:
            return
        self.folder.remove_leftovers()
        needed = sum(shard.nbytes for shard in missing)
        # The index lists all conversations, and its next version stands beside it for a moment.
        for shard in self.planned:
            needed += INDEX_BYTES * len(shard.conversations)
        free = shutil.disk_usage(self.folder.path).free
        if needed > free:
            raise ValueError(
                f"{self.folder.url} needs {megabytes(needed)} more and its disk has "
                f"{megabytes(free)} free; free space, choose another folder, store int8, or "
                "keep fewer conversations"
            )

    def add_shard(self, entry: dict[str, Any]) -> None:
        """Note a shard that stands in the folder, and write the index."""
        # A shard that was lost and is written anew goes back to its place.
        self._set_shards(sorted([*self.finished_shards, entry], key=_name_of))
        self.write_index()

    def write_index(self) -> None:
        """Write index.json as things stand."""
        text = json.dumps(self._index, indent=1, ensure_ascii=False) + "\n"
        with self.write_whole(INDEX) as file:
            file.write(text.encode())

    def write_spread(self, spread: torch.Tensor) -> None:
        """Keep the spread for this run and for all readers.

        Args:
            spread: shape [n, H].
        """
        self.spread = spread.cpu()
        data = save({"spread": self.spread.contiguous()})
        with self.write_whole(SPREAD) as file:
            file.write(data)
        self._index["spread_crc32"] = zlib.crc32(data)

    @contextmanager
    def write_whole(self, name: str) -> Generator[BinaryIO]:
        """Write a file that appears whole or not at all, as `Folder.write_whole`.

        Raises:
            ValueError: the disk is full; the error says what is kept.
        """
        try:
            with self.folder.write_whole(name) as file:
                yield file
        except DiskFullError as error:
            raise ValueError(
                f"the disk of {error.place} became full while {name} was written; "
                f"{len(self.finished_shards)} of {len(self.planned)} shards are finished and kept: "
                "free space and run again, which goes on after them"
            ) from error


def _name_of(entry: dict[str, Any]) -> str:
    return entry["name"]


def megabytes(size: int) -> str:
    """A number of bytes for the screen."""
    return f"{size / 1e6:,.1f} MB"
