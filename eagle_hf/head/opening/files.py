"""The files of a head's folder or hub repository: found, and kept inside it."""

import json
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
MAX_JSON_BYTES = 2**24  # a head's JSON has a few KB


def read_config(source: str | Path, hub: dict[str, Any]) -> dict[str, Any]:
    """Read config.json.

    Args:
        source: A folder or hub id.
        hub: Options of the hub. `revision` is set to the commit of the config, so that the
            weights are taken from the same one.

    Raises:
        ValueError: There is none, or it is no JSON object, or it leads out of the folder.
        OSError: The hub or the disk has no such source.
    """
    file = cached_file(source, "config.json", **hub)
    if file is None:
        raise ValueError(
            f"{source} holds no config.json; give a folder that save_pretrained wrote, or a hub id"
        )
    commit = _find_commit(Path(file))
    if commit is not None and not Path(source).is_dir():
        hub["revision"] = commit
    return read_json(contained(file, source))


def _find_commit(file: Path) -> str | None:
    """The commit of a file in the hub cache, which lies below snapshots/COMMIT."""
    for folder in file.parents:
        if folder.parent.name == "snapshots":
            return folder.name
    return None


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of at most 16 MiB.

    Raises:
        ValueError: The file holds anything else.
    """
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{file} has {size} bytes; a head's is never that large")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is no JSON ({error!s:.200}); copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}; needed is a JSON object")
    return content


def contained(file: str | Path, source: str | Path) -> Path:
    """Return the path of a file that lies in its folder.

    Args:
        file: The file, which may be a link.
        source: The folder or hub id that it belongs to.

    Raises:
        ValueError: It is a link to a file outside. Links of the hub cache to its own blobs are
            allowed.
    """
    file = Path(file)
    real = file.resolve()
    folders = [file.parent.resolve()]
    if Path(source).is_dir():
        folders.append(Path(source).resolve())
    is_inside = any(real.is_relative_to(folder) for folder in folders)
    if not is_inside and not _is_in_hub_cache(real):
        raise ValueError(
            f"{file} is a link to {real}, outside of its folder; put the file itself there"
        )
    return file


def _is_in_hub_cache(file: Path) -> bool:
    """Whether a file is a blob of a repository in the hub cache."""
    for folder in file.parents:
        if folder.name == "blobs" and (folder.parent / "snapshots").is_dir():
            return True
    return False
