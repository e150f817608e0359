"""GGUF files read by transformers: converted whole, or their config alone."""

import json
import shutil
import textwrap
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from eagle_hf.compat import quiet_libraries
from eagle_hf.target.gguf.files import file_state


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file as an ordinary folder of float32 safetensors and a tokenizer.

    Args:
        file: The GGUF file.
        folder: The new folder.

    Raises:
        ValueError: transformers cannot read the file.
    """
    options = {"gguf_file": file.name}
    with _conversion_of(file):
        # 1) the file, unpacked by transformers
        config = AutoConfig.from_pretrained(file.parent, **options)
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **options)
        unpacked = AutoModelForCausalLM.from_pretrained(
            file.parent,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            **options,
        )

        # 2) an ordinary model with the same weights: `unpacked` counts as quantised, and cannot
        # be saved
        with torch.device("meta"):
            model = type(unpacked)(config)
        model.load_state_dict(unpacked.state_dict(), assign=True)
        model.tie_weights()

        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)  # else no other user may read them


def read_gguf_config(file: Path) -> dict[str, Any]:
    """Return what config.json of the converted copy says, dtype aside.

    It is read from the header alone.

    Args:
        file: The GGUF file.

    Raises:
        ValueError: transformers cannot read the file.
    """
    return json.loads(_config_text(*file_state(file)))


@lru_cache
def _config_text(file: Path, size: int, mtime_ns: int) -> str:
    """The arguments after the first are part of the cache's key alone."""
    with _conversion_of(file):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    return json.dumps(config.to_diff_dict() | {"architectures": [type(model).__name__]})


@contextmanager
def _conversion_of(file: Path) -> Generator[None]:
    """Silence, and a ValueError that names the file where transformers cannot convert it."""
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
def silence() -> Generator[None]:
    """No progress bars, notes or warnings of transformers meanwhile.

    The bar of its GGUF reader cannot be switched off, so nothing at all reaches stderr.
    """
    with redirect_stderr(StringIO()), quiet_libraries():
        yield
