"""Features that were captured in parts, opened as one folder: only an index is written.

    FEATURES/index.json                                  the parts' indexes, one behind the other
    FEATURES/part-00000/features-00000.safetensors       of the first part, as it was captured
    FEATURES/part-00001/features-00000.safetensors

Several machines can so capture at once, each its own part.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eagle_hf.data.features.capture_folder import FORMER
from eagle_hf.data.features.folder import FORMAT, INDEX, Folder

# Fields of the index that all parts must have in common.
SHARED = (
    "format",
    "target_weights",
    "template_sha256",
    "layer_ids",
    "dtype",
    "hidden_size",
    "states_from",
)


def join_features(
    url: str | Path, parts: Sequence[str], storage_options: dict[str, Any] | None = None
) -> int:
    """Write the index that makes one folder of features out of several within it.

    Args:
        url: the folder that holds the parts, local or anything fsspec opens.
        parts: names of folders in it that `capture_features` wrote, in the order wanted.
        storage_options: for the file system.

    Returns:
        How many conversations the folder has.

    Raises:
        ValueError: a part is missing, unfinished, of another target or setting, or in int8, of
            which every part has a scale of its own.
    """
    if not parts:
        raise ValueError(f"no parts of {url} are named; capture some first")
    indexes = [_read_part(f"{url}/{part}", storage_options) for part in parts]
    for part, index in zip(parts, indexes, strict=True):
        _check_same(part, index, parts[0], indexes[0])
    shards: list[dict[str, Any]] = []
    rows = 0
    for part, index in zip(parts, indexes, strict=True):
        moved = [_moved(shard, part, rows) for shard in index["shards"]]
        numbers = [entry["row"] for shard in moved for entry in shard["conversations"]]
        rows = max(numbers, default=rows - 1) + 1
        shards += moved
    digests = [index["examples_sha256"] for index in indexes]
    joined = {
        **indexes[0],
        "examples_sha256": hashlib.sha256(repr(digests).encode()).hexdigest(),
        "complete": True,
        "shards": shards,
    }
    assert joined["format"] == FORMAT, "read_index refuses others"
    with Folder(url, storage_options).write_whole(INDEX) as file:
        file.write(json.dumps(joined).encode())
    return sum(len(shard["conversations"]) for shard in shards)


def _read_part(url: str, storage_options: dict[str, Any] | None) -> dict[str, Any]:
    """The index of a finished part."""
    index = Folder(url, storage_options).read_index()
    if index is None or not index["complete"]:
        state = "holds no features" if index is None else "is not finished"
        raise ValueError(f"{url} {state}; capture it (again), which goes on where it was")
    if index["dtype"] == "int8":
        raise ValueError(
            f"{url} holds int8, whose scale each part measures for itself; capture in bfloat16, or "
            "all in one folder"
        )
    return FORMER | index


def _check_same(part: str, index: dict[str, Any], first: str, wanted: dict[str, Any]) -> None:
    """Refuse a part that was made otherwise than the first one."""
    for name in SHARED:
        if index.get(name) != wanted.get(name):
            raise ValueError(
                f"{name} is {index.get(name)} in {part} and {wanted.get(name)} in {first}; join "
                "parts of one target and one setting"
            )


def _moved(shard: dict[str, Any], part: str, rows: int) -> dict[str, Any]:
    """A shard's entry as it stands in the index of the whole folder."""
    conversations = []
    for entry in shard["conversations"]:
        conversations.append({**entry, "row": entry["row"] + rows})
    return {**shard, "name": f"{part}/{shard['name']}", "conversations": conversations}
