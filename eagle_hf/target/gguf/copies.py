"""Converted copies of GGUF files: where they are kept, found and made."""

import hashlib
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from huggingface_hub.constants import HF_HOME
from transformers.utils import logging

from eagle_hf.target.gguf.conversion import convert_gguf
from eagle_hf.target.gguf.files import file_state, format_bytes
from eagle_hf.target.gguf.header import read_header

logger = logging.get_logger(__name__)

BYTES_PER_WEIGHT = 4  # float32


def cache_folder() -> Path:
    """Return where converted targets are kept.

    Returns:
        $EAGLE_HF_CACHE, else a folder beside the hub cache.
    """
    return Path(os.environ.get("EAGLE_HF_CACHE") or Path(HF_HOME) / "eagle_hf")


def find_copy(file: Path, folder: Path | None = None) -> Path | None:
    """Return the copy of a GGUF file.

    Args:
        file: The file.
        folder: Where to look. Default: `cache_folder()`.

    Returns:
        The copy's folder, None where there is none.
    """
    copies = (folder or cache_folder()).glob(f"*-{content_sha256(file)}")
    return next(copies, None)


def converted_folder(file: Path) -> Path:
    """Return the folder of a GGUF file's float32 copy, which is made where there is none yet.

    Where `cache_folder()` cannot be written, the copy is made in a temporary folder, for this
    process alone.

    Args:
        file: The file.

    Raises:
        ValueError: The disk has too little space for the copy, or the file cannot be converted.
    """
    copy = find_copy(file)
    if copy is not None:
        return copy
    if can_be_written(cache_folder()):
        return make_copy(file, cache_folder(), "once")
    copy = find_copy(file, temporary_folder())
    if copy is not None:
        return copy
    reason = f"because {cache_folder()} cannot be written"
    often = f"for this process alone, and again next time, {reason}"
    return make_copy(file, temporary_folder(), often)


def make_copy(file: Path, parent: Path, often: str) -> Path:
    """Convert a GGUF file to a new folder, and say so first.

    The folder gets its name when all of it is written, so an interrupted conversion leaves no
    copy.

    Args:
        file: The file.
        parent: Where the folder is made.
        often: How often the user has to wait for this, a part of what is said.

    Raises:
        ValueError: The disk has too little space for the copy, or the file cannot be converted.
    """
    folder = parent / f"{file.stem}-{content_sha256(file)}"
    needed = read_header(file).weights * BYTES_PER_WEIGHT
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ValueError(
            f"converting {file} to float32 needs {format_bytes(needed)} of disk space, but "
            f"{parent} has {format_bytes(free)} free; "
            "make room there, or set EAGLE_HF_CACHE to a folder on another disk"
        )
    logger.warning(
        f"converting {file} to float32 {often}: {format_bytes(needed)} of disk space in {folder}; "
        "set EAGLE_HF_CACHE to keep it elsewhere"
    )
    with tempfile.TemporaryDirectory(dir=parent, prefix=".converting-") as scratch:
        whole = Path(scratch, "whole")  # the scratch folder itself is closed to other users
        convert_gguf(file, whole)
        try:
            whole.rename(folder)
        except OSError:  # another process finished first; its folder is as good
            if not folder.is_dir():
                raise
    return folder


def content_sha256(file: Path) -> str:
    """The sha256 of a file's content, computed once in a process while the file stays as it is."""
    return _sha256(*file_state(file))


@lru_cache
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    """The arguments after the first are part of the cache's key alone."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def can_be_written(folder: Path) -> bool:
    """Whether a folder can be made in this one, which is itself made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".trying-"):
            return True
    except OSError:
        return False


def temporary_folder() -> Path:
    """A folder that is deleted when this process ends, the same one at every call."""
    return Path(_temporary_folder().name)


@lru_cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="eagle_hf-")
