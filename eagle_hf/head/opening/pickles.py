"""pytorch_model.bin files: read as tensors or not at all, never executed."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

SAFE_CONVERSION = (
    "no pickle is executed here: ask its publisher for model.safetensors, or, if you trust the "
    "file, convert it on a machine that holds nothing of value: "
    "safetensors.torch.save_file(torch.load(FILE, map_location='cpu', weights_only=False), "
    "'model.safetensors')"
)


def unpickle(file: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a pytorch_model.bin; they stay in the file until they are used.

    Args:
        file: A file that `torch.save` wrote, as a zip archive.

    Raises:
        ValueError: The file is damaged, or holds more than tensors. Archives whose entries are
            compressed or overlap are refused too, because these could unfold to any size, and so
            is the format before torch 1.6, which allocates what it announces.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is damaged, or of the format before torch 1.6; {SAFE_CONVERSION}")
    if not _has_plain_entries(file):
        raise ValueError(
            f"{file} is compressed, or its parts overlap, which torch never writes; "
            f"{SAFE_CONVERSION}"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # a hostile pickle provokes any type
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = wanted.group(1) if wanted else type(error).__name__
        raise ValueError(
            f"{file} is damaged, or holds more than tensors ({what}); {SAFE_CONVERSION}"
        ) from error
    if not _is_state_dict(content):
        raise ValueError(
            f"{file} holds no plain dictionary from names to tensors; {SAFE_CONVERSION}"
        )
    return {name: tensor.detach() for name, tensor in content.items()}


def _has_plain_entries(file: Path) -> bool:
    """Whether the entries of an archive are uncompressed and do not overlap."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.compress_type for entry in entries):
        return False
    return sum(entry.file_size for entry in entries) <= file.stat().st_size


def _is_state_dict(content: Any) -> bool:
    """Whether this is a dictionary from names to plain tensors."""
    if not isinstance(content, dict):
        return False
    for name, value in content.items():
        if not isinstance(name, str) or not _is_plain(value):
            return False
    return True


def _is_plain(value: Any) -> bool:
    """Whether this is a tensor with as many bytes in the file as it has elements for.

    A stride of 0 makes terabytes of a few bytes.
    """
    if not isinstance(value, torch.Tensor) or value.is_quantized:
        return False
    if value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
