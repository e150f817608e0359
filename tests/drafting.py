"""Drafters without a run, assistants with another tree for a while, and outputs to compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from eagle_hf import TreeConfig
from eagle_hf.decoding.assistants import DraftContext, Drafter, as_assistant
from eagle_hf.decoding.caches.target import TargetCache


def drafter_of(assistant: Any, target: PreTrainedModel, tree: TreeConfig | None = None) -> Drafter:
    """The drafter of an assistant, on an empty cache of the target's."""
    assistant = as_assistant(assistant)
    tree = tree or assistant.tree
    return assistant.drafter(DraftContext.without_run(target, TargetCache(), tree))


@contextmanager
def given_tree(assistant: Any, tree: TreeConfig) -> Iterator[Any]:
    """The assistant with another tree inside the block."""
    own = assistant.tree
    assistant.tree = tree
    try:
        yield assistant
    finally:
        assistant.tree = own


def plain_and_drafted(
    target: PreTrainedModel,
    assistant: Any,
    inputs: dict[str, torch.Tensor],
    seed: int = 0,
    /,  # so that settings may have any name
    **settings: Any,
) -> list[Any]:
    """[output of the target alone, output with the assistant], both under one seed.

    Args:
        target: The model that generates.
        assistant: A draft head or another assistant.
        inputs: A batch of prompts, see `tiny.left_padded`.
        seed: Set before each of the two calls.
        settings: Other arguments of generate.
    """
    outputs = []
    for one in (None, assistant):
        torch.manual_seed(seed)
        outputs.append(target.generate(**inputs, assistant_model=one, **settings))
    return outputs
