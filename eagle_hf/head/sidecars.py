"""What lies beside a head's weights, and goes along when it is saved again.

Card, metrics and plots are figures of one head: these weights, this tree. A head that was trained on, or given another tree, leaves
them behind: no file says more than was measured. The rest (tokenizer, custom_generate, a plan, which is checked where it is used)
claims nothing and always goes along.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)
WEIGHTS = "model.safetensors"
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
    """Names within a head's folder of the files that match; none whose link leads out of it, except into the hub's own cache.

    A snapshot of the hub's cache is made of links to the blobs beside it. Any other link would publish whatever file it points to.
    """
    homes = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    found = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return [
        path.relative_to(folder).as_posix()
        for path in found
        if any(path.resolve().is_relative_to(home) for home in homes)
    ]


def choose_sidecars(head, folder: str | Path, weights: dict[str, torch.Tensor]) -> dict[str, Path]:
    """The files to copy by name once the head with these weights is saved to `folder`; call it before anything is written there.

    They come from the folder that the head was opened from; a head opened by its hub id, or made in memory, brings none. Where a
    changed head goes back into its own folder, the old figures there get the suffix .outdated.
    """
    source = Path(head.name_or_path)
    if not head.name_or_path or not source.is_dir():
        return {}
    figures, is_same = sidecars(source, FIGURES), is_unchanged(head, source, weights)
    if figures and not is_same:
        names = ", ".join(figures)
        logger.warning_once(
            f"{names} in {source} tell of the head as it was there and stay behind; measure it anew: recipes/evaluate.py"
        )
    if source.resolve() == Path(folder).resolve():
        for name in [] if is_same else figures:
            (source / name).rename(source / f"{name}.outdated")
        return {}
    return {
        name: source / name for name in sidecars(source, LASTING) + (figures if is_same else [])
    }


def copy_sidecars(chosen: dict[str, Path], folder: str | Path) -> None:
    """Copy files, links as what they point to, to their names below `folder`."""
    for name, path in chosen.items():
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, Path(folder) / name)


def is_unchanged(head, source: Path, weights: dict[str, torch.Tensor]) -> bool:
    """Whether these weights, in their dtype, and the head's settings are those of its folder. Rounding to another dtype is no change."""
    if not (source / WEIGHTS).is_file() or not (source / "config.json").is_file():
        return False
    try:
        settings = json.loads((source / "config.json").read_text(encoding="utf-8")).get("eagle_hf")
        with safe_open(source / WEIGHTS, "pt") as saved:
            return (
                settings == json.loads(json.dumps(head.config.eagle_hf))
                and set(saved.keys()) == set(weights)
                and all(
                    torch.equal(saved.get_tensor(name).to(tensor.dtype), tensor.cpu())
                    for name, tensor in weights.items()
                )
            )
    except (ValueError, SafetensorError):  # the folder was damaged since
        return False
