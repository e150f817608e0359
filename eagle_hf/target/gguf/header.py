"""What a GGUF file says of itself, without its weights.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

# how the types of metadata are packed
NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
STRING = 8
ARRAY = 9
UINT32 = "<I"
UINT64 = "<Q"


@dataclass(frozen=True)
class Header:
    """What stands before the tensors.

    Args:
        weights: How many weights the tensors hold.
        template: The chat template, if there is one.
    """

    weights: int
    template: str | None


def read_header(file: Path) -> Header:
    """Read the header of a GGUF file.

    It is read here, because the package gguf takes seconds for it.

    Args:
        file: The file.

    Raises:
        ValueError: The file is no GGUF, or ends too early.
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
    # 1) the magic number and the version
    magic = stream.read(4)
    if magic != b"GGUF":
        raise ValueError(f"it begins with {magic!r}, not with b'GGUF'")
    _read_number(stream, UINT32)
    tensors = _read_number(stream, UINT64)
    entries = _read_number(stream, UINT64)

    # 2) the metadata
    metadata = {}
    for _ in range(entries):
        key = _read_string(stream)
        kind = _read_number(stream, UINT32)
        metadata[key] = _read_value(stream, kind)

    # 3) the tensors' shapes
    weights = 0
    for _ in range(tensors):
        weights += _read_tensor_size(stream)
    template = metadata.get("tokenizer.chat_template")
    return Header(weights, template if isinstance(template, str) else None)


def _read_tensor_size(stream: BinaryIO) -> int:
    """How many weights the next tensor holds."""
    _read_string(stream)  # its name
    dimensions = _read_number(stream, UINT32)
    size = 1
    for _ in range(dimensions):
        size *= _read_number(stream, UINT64)
    stream.read(12)  # its type, and its place in the file
    return size


def _read_number(stream: BinaryIO, form: str) -> Any:
    return struct.unpack(form, stream.read(struct.calcsize(form)))[0]


def _read_string(stream: BinaryIO) -> str:
    length = _read_number(stream, UINT64)
    return stream.read(length).decode("utf-8", errors="replace")


def _read_value(stream: BinaryIO, kind: int) -> Any:
    """The next value of the metadata; arrays may hold arrays."""
    if kind == STRING:
        return _read_string(stream)
    if kind != ARRAY:
        return _read_number(stream, NUMBERS[kind])
    inner = _read_number(stream, UINT32)
    length = _read_number(stream, UINT64)
    return [_read_value(stream, inner) for _ in range(length)]
