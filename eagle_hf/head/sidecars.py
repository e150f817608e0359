"""The files beside a head's weights, which go along when it is saved again.

Card, metrics and plots are figures of one head: these weights, this tree. A head that was trained
on, or given another tree, leaves them behind, so no file says more than was measured. The other
files claim nothing and always go along: tokenizer, custom_generate, and a plan, which is checked
where it is used.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FIGURES = ("README.md", "metrics.json", "*.png")
LASTING = (
    "plan.json",
    "custom_generate/generate.py",
    "tokenizer*.json",
    "tokenizer.model",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*",
)


def sidecars(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """List the files of a head's folder that match.

    A link out of the folder is left out, because whatever it points to would be published. The
    hub cache is an exception: its snapshots are made of links to the blobs beside them.

    Args:
        folder: The head's folder.
        patterns: Patterns of names within it.

    Returns:
        Their names within the folder, sorted.
    """
    inside = folder.resolve()
    blobs = inside.parent.parent / "blobs"
    names = []
    for path in sorted(_matches(folder, patterns)):
        real = path.resolve()
        if real.is_relative_to(inside) or real.is_relative_to(blobs):
            names.append(path.relative_to(folder).as_posix())
    return names


def _matches(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files that match one of the patterns."""
    found = []
    for pattern in patterns:
        found += [path for path in folder.glob(pattern) if path.is_file()]
    return found


def choose_sidecars(
    head: Any, folder: str | Path, weights: dict[str, torch.Tensor]
) -> dict[str, Path]:
    """Choose the files that go along to a folder; call it before anything is written there.

    They come from the folder that the head was opened from. A head opened by its hub id, or made
    in memory, brings none. Where a changed head goes back into its own folder, the old figures
    there get the suffix .outdated.

    Args:
        head: The head that is saved.
        folder: Where it is saved.
        weights: What is saved.

    Returns:
        The files to copy, by their names within the folder.
    """
    source = Path(head.name_or_path)
    if not head.name_or_path or not source.is_dir():
        return {}
    figures = sidecars(source, FIGURES)
    is_same = is_unchanged(head, source, weights)
    if figures and not is_same:
        names = ", ".join(figures)
        logger.warning_once(
            f"{names} in {source} tell of the head as it was there and stay behind; "
            "measure it anew: recipes/evaluate.py"
        )
    if source.resolve() == Path(folder).resolve():
        if not is_same:
            for name in figures:
                (source / name).rename(source / f"{name}.outdated")
        return {}
    names = sidecars(source, LASTING)
    if is_same:
        names += figures
    return {name: source / name for name in names}


def copy_sidecars(chosen: dict[str, Path], folder: str | Path) -> None:
    """Copy files below a folder.

    Args:
        chosen: The files by their new names. Links are copied as what they point to.
        folder: Where they are copied.
    """
    for name, path in chosen.items():
        copy = Path(folder) / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def is_unchanged(head: Any, source: Path, weights: dict[str, torch.Tensor]) -> bool:
    """Whether a head is still the one in its folder: same settings, same weights.

    Weights are compared in the dtype given. Rounding to another dtype is no change.

    Args:
        head: The head.
        source: The folder that it was opened from.
        weights: Its weights.
    """
    if not (source / WEIGHTS).is_file() or not (source / CONFIG).is_file():
        return False
    try:
        settings = json.loads((source / CONFIG).read_text(encoding="utf-8")).get("eagle_hf")
        if settings != json.loads(json.dumps(head.config.eagle_hf)):
            return False
        return _holds_weights(source / WEIGHTS, weights)
    except (ValueError, SafetensorError):  # the folder was damaged since
        return False


def _holds_weights(file: Path, weights: dict[str, torch.Tensor]) -> bool:
    """Whether a safetensors file holds exactly these weights."""
    with safe_open(file, "pt") as saved:
        if set(saved.keys()) != set(weights):
            return False
        for name, tensor in weights.items():
            if not torch.equal(saved.get_tensor(name).to(tensor.dtype), tensor.cpu()):
                return False
    return True
