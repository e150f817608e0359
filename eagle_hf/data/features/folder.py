"""The folder that features lie in, on any file system that fsspec opens.

folder/index.json               what made the folder, and where its conversations lie
folder/spread.safetensors       with int8: the usual size of every dimension
folder/features-00000.safetensors, ...   the shards (see shards.py)
"""

import errno
import json
import os
import tempfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import torch
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import load

INDEX = "index.json"
SPREAD = "spread.safetensors"
FORMAT = 1  # of index.json

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(Exception):
    """A file could not be written because the disk is full.

    Attributes:
        place: the folder on that disk.
    """

    def __init__(self, place: str):
        super().__init__(f"the disk of {place} is full")
        self.place = place


class Folder:
    """A folder on any file system.

    It is opened anew in every process, because connections do not survive a fork.

    Args:
        url: a local folder, or a URL such as s3://bucket/folder.
        storage_options: for the file system: credentials, an endpoint.

    Raises:
        ValueError: the package for this kind of URL is not installed.
    """

    def __init__(self, url: str | Path, storage_options: dict[str, Any] | None = None):
        self.url = str(url)
        self.options = dict(storage_options or {})
        try:
            fs, path = url_to_fs(self.url, **self.options)
        except ImportError as error:
            raise ValueError(
                f"{self.url} cannot be opened ({error}); install that package"
            ) from error
        self.path = path.rstrip("/")
        self.is_local = isinstance(fs, LocalFileSystem)
        self._fs = fs
        self._process: int | None = os.getpid()

    @property
    def fs(self) -> AbstractFileSystem:
        """The file system, as this process opened it."""
        if self._process != os.getpid():
            self._fs, _ = url_to_fs(self.url, **self.options)
            self._process = os.getpid()
        return self._fs

    def __getstate__(self) -> dict[str, Any]:
        # Connections cannot be pickled; `fs` opens a new one.
        return self.__dict__ | {"_fs": None, "_process": None}

    def file(self, name: str) -> str:
        """The path of a file of the folder, as its file system wants it."""
        return f"{self.path}/{name}"

    def sizes(self, nested: bool = False) -> dict[str, int]:
        """Bytes of every file in the folder, by name; none where there is no folder.

        Args:
            nested: also those in folders within it, named with the folder.
        """
        # fsspec remembers listings, and another process may have written since.
        self.fs.invalidate_cache(self.path)
        try:
            entries = self.fs.ls(self.path, detail=True)
            if nested:
                entries = self.fs.find(self.path, detail=True).values()
        except FileNotFoundError:
            return {}
        sizes = {}
        for entry in entries:
            if entry["type"] != "file":
                continue
            name = entry["name"].removeprefix(f"{self.path}/")
            # Some file systems list no sizes.
            size = entry["size"]
            sizes[name] = self.fs.size(entry["name"]) if size is None else size
        return sizes

    def read_index(self) -> dict[str, Any] | None:
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
                f"{INDEX} of {self.url} has the format {found!r} and this version reads {FORMAT}; "
                "update eagle_hf or capture again"
            )
        return index

    def read_spread(self, index: dict[str, Any]) -> torch.Tensor:
        """The usual sizes [n, H] that int8 states were divided by (see shards.py)."""
        try:
            data = self.fs.cat_file(self.file(SPREAD))
        except FileNotFoundError:
            data = b""
        if zlib.crc32(data) != index["spread_crc32"]:
            raise ValueError(
                f"{SPREAD} of {self.url} is missing or damaged, and no state can be read without "
                "it; delete the folder and capture again"
            )
        return load(data)["spread"]

    @contextmanager
    def write_whole(self, name: str) -> Generator[BinaryIO]:
        """Write a file that appears under its name, whole, once the block has ended well.

        Otherwise nothing of it stays. For a remote folder the file is made in the temporary
        folder ($TMPDIR) first.

        Args:
            name: of the file.

        Raises:
            DiskFullError: the disk of the folder, or of the temporary one, is full.
        """
        with self._scratch_folder() as scratch:
            temporary = Path(scratch, f".{name}.tmp")
            try:
                with temporary.open("wb") as file:
                    yield file
                    # On disk before it is renamed: a power cut leaves the old file or the new.
                    file.flush()
                    os.fsync(file.fileno())
                if self.is_local:
                    temporary.replace(self.file(name))
                else:
                    self.fs.put_file(str(temporary), self.file(name))
            except OSError as error:
                if error.errno in DISK_FULL:
                    raise DiskFullError(scratch) from error
                raise
            finally:
                temporary.unlink(missing_ok=True)

    def _scratch_folder(self) -> "nullcontext[str] | tempfile.TemporaryDirectory[str]":
        """Where files are made: the folder itself where it is local, so that a rename is enough."""
        if self.is_local:
            return nullcontext(self.path)
        return tempfile.TemporaryDirectory(prefix="eagle_hf-")

    def remove_leftovers(self) -> None:
        """Remove unfinished files of a killed run from a local folder; no other run may write."""
        for leftover in Path(self.path).glob(".*.tmp"):
            leftover.unlink()
