"""An adapter's weights become the head's own: engines load plain heads only.

A LoRA run's checkpoints hold nothing but the adapter; the head it was trained on is kept by whoever started the run.
"""

from copy import deepcopy
from pathlib import Path

import torch

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.target import lay_adapter, unwrap
from eagle_hf.training.checkpoints import last_checkpoint

TAKEN = ("config.json", "model.safetensors", "adapter_config.json")


def merged(model) -> Eagle3DraftHead:
    """The head inside a PeftModel, its adapter merged into the weights; `model` stays as it is.

    Half-precision weights are merged in float32 and rounded once. An adapter that would make them NaN is a ValueError.
    """
    return _merge(deepcopy(model))


def _merge(model) -> Eagle3DraftHead:
    dtype = unwrap(model).dtype
    if dtype in (torch.bfloat16, torch.float16):
        model = model.float()
    return model.merge_and_unload(safe_merge=True).to(dtype).requires_grad_(True)


def merge_adapter(head: Eagle3DraftHead, adapter: str | Path) -> Eagle3DraftHead:
    """A copy of `head` with this adapter (folder or hub id) merged in; its vocabulary, tree and dtype are the head's.

    adapter: a folder that PEFT saved, such as a checkpoint of a LoRA run. What is no adapter, or one of a head with
    other shapes, is a ValueError.
    """
    folder = Path(adapter)
    if folder.is_dir() and not (folder / "adapter_config.json").is_file():
        last = last_checkpoint(folder)
        remedy = (
            f"give one of its checkpoints, the last is {last}"
            if last
            else "give a folder that PEFT saved, such as a LoRA run's checkpoint"
        )
        raise ValueError(f"{adapter} is no adapter: it holds no adapter_config.json; {remedy}")
    return _merge(lay_adapter(deepcopy(head), adapter)).eval()


def base_parameters(model):
    """(name, parameter) of a PeftModel's head as it was before the adapter came."""
    prefix = model.base_model.prefix
    for name, parameter in unwrap(model).named_parameters():
        if prefix not in name:
            yield name.replace(".base_layer", ""), parameter


def merge_saved(head: str | Path, adapter: str | Path, out: str | Path) -> None:
    """Write the saved head with the adapter merged in to the folder `out`, in the engines' layout and the head's dtype."""
    taken = [name for name in TAKEN if Path(out, name).exists()]
    if taken:
        raise ValueError(
            f"{out} already holds {' and '.join(taken)}; choose another folder, nothing is overwritten"
        )
    merge_adapter(Eagle3DraftHead.from_pretrained(head, dtype="auto"), adapter).save_pretrained(out)
