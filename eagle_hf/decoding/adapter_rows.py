"""PEFT adapters that are chosen by row, or by token, inside of `generate`.

`PeftModel.generate` tells adapter layers by forward pre-hooks what it was called with: an adapter
(`adapter_names`) or a task (`task_ids`) for each row, and for activated LoRA on how many of a
row's tokens it works, counted from the end (`alora_offsets`). These hooks know nothing of rows that
leave the batch, nor of drafts behind the newest token. Hooks that run after them put it right.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from eagle_hf.decoding.sequences import Sequences
from eagle_hf.target import unwrap

ALL_TOKENS = 2**31  # an offset that no forward reaches


@contextmanager
def adapters_by_row(target: Any, sequences: Sequences) -> Generator[None]:
    """Inside the block, adapters follow the rows of the batch, behind their prompts.

    Args:
        target: the model that verifies, its hooks in place.
        sequences: of the run; the rows that are still in its batch are looked up at every forward.
    """

    def follow(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        changed = dict(kwargs)
        if kwargs.get("adapter_names") is not None:
            names = kwargs["adapter_names"]
            changed["adapter_names"] = [names[row] for row in sequences.in_batch]
        if kwargs.get("task_ids") is not None:
            changed["task_ids"] = kwargs["task_ids"][sequences.in_batch]
        if kwargs.get("alora_offsets") is not None:
            offsets = kwargs["alora_offsets"]
            changed["alora_offsets"] = [_behind_prompt(offsets[row]) for row in sequences.in_batch]
        return args, changed

    handles = []
    for module in _told_by_row(target):
        handles.append(module.register_forward_pre_hook(follow, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def chooses_by_row(target: Any) -> bool:
    """Whether adapter layers are told by row, or by token, what to compute."""
    return any(True for _ in _told_by_row(target))


def _told_by_row(target: Any) -> Iterator[torch.nn.Module]:
    """The adapter layers on which PEFT's hooks are; without those there is nothing to pay for."""
    model = unwrap(target)
    for module in model.modules() if hasattr(model, "peft_config") else ():
        if module._forward_pre_hooks_with_kwargs:
            yield module


def _behind_prompt(offset: int | None) -> int | None:
    """Tokens behind a prompt on which an activated LoRA works: all, unless it was never invoked."""
    return None if offset is None else ALL_TOKENS
