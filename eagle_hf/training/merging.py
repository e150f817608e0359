"""Adapters over a head, and how their weights become its own: engines load plain heads only.

A LoRA run's checkpoints hold nothing but the adapter. Keep the head that it was trained on.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.target import lay_adapter, unwrap
from eagle_hf.training.checkpoints import last_checkpoint

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

WRITTEN = ("config.json", "model.safetensors", "adapter_config.json")


def lora_config(rank: int, target_modules: list[str]) -> "LoraConfig | None":
    """The PEFT configuration of a LoRA adapter over a head; None for a rank of 0.

    Args:
        rank: of the adapter; alpha is twice as much.
        target_modules: names of the head's linear layers.

    Returns:
        The configuration.
    """
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=target_modules)


def merged(model: "PeftModel") -> Eagle3DraftHead:
    """Merge the adapter of a PeftModel into a copy of its head; `model` stays as it is.

    Half-precision weights are merged in float32 and rounded once.

    Raises:
        ValueError: the adapter would make weights NaN.
    """
    return _merge(deepcopy(model))


def _merge(model: "PeftModel") -> Eagle3DraftHead:
    """Merge in place, with one rounding."""
    dtype = unwrap(model).dtype
    if dtype in (torch.bfloat16, torch.float16):
        model = model.float()
    return model.merge_and_unload(safe_merge=True).to(dtype).requires_grad_(True)


def merge_adapter(head: Eagle3DraftHead, adapter: str | Path) -> Eagle3DraftHead:
    """Merge an adapter into a copy of `head`, whose vocabulary, tree and dtype it keeps.

    Args:
        head: the head that the adapter was trained on.
        adapter: a folder that PEFT saved, such as a checkpoint of a LoRA run, or a hub id.

    Returns:
        The merged head, in eval mode.

    Raises:
        ValueError: `adapter` holds no adapter, or one of a head with other shapes.
    """
    folder = Path(adapter)
    if folder.is_dir() and not (folder / "adapter_config.json").is_file():
        remedy = "give a folder that PEFT saved, such as a LoRA run's checkpoint"
        last = last_checkpoint(folder)
        if last is not None:
            remedy = f"give one of its checkpoints, the last is {last}"
        raise ValueError(f"{adapter} is no adapter: it holds no adapter_config.json; {remedy}")
    return _merge(lay_adapter(deepcopy(head), adapter)).eval()


def base_parameters(model: "PeftModel") -> Iterator[tuple[str, torch.nn.Parameter]]:
    """(name, parameter) of a PeftModel's head as it was before the adapter came."""
    prefix = str(model.base_model.prefix)  # as "lora_", in the names of the adapter's own weights
    for name, parameter in unwrap(model).named_parameters():
        if prefix not in name:
            yield name.replace(".base_layer", ""), parameter


def merge_saved(head: str | Path, adapter: str | Path, out: str | Path) -> None:
    """Write a saved head with the adapter merged in, in the engines' layout and the head's dtype.

    Args:
        head: the saved head that the adapter was trained on.
        adapter: as in `merge_adapter`.
        out: the folder to write to.

    Raises:
        ValueError: `out` already holds a head or an adapter, or the adapter does not fit.
    """
    existing = [name for name in WRITTEN if Path(out, name).exists()]
    if existing:
        raise ValueError(
            f"{out} already holds {' and '.join(existing)}; choose another folder, nothing is "
            "overwritten"
        )
    merge_adapter(Eagle3DraftHead.from_pretrained(head, dtype="auto"), adapter).save_pretrained(out)
