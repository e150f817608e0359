"""Prompts that stand in a batch several times are read once.

Sampling asks for several answers to one prompt: GRPO's groups are eight rows of the same tokens.
The target reads the different prompts, and keys, values and states are copied to the rows:

    rows of the call    a a a b b a
    read                a b
    source              0 0 0 1 1 0

R rows of the call, P different prompts, S prompt slots.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Repeats:
    """Which rows of a batch are the same prompt.

    Attributes:
        first: the row [P] in which each prompt stands first.
        source: the prompt [R] of every row.
    """

    first: torch.Tensor
    source: torch.Tensor

    def once(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows [P, ...] that are read, of a tensor [R, ...]."""
        return tensor[self.first]

    def inputs_once(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of the prompts that are read; what is no tensor stays as it is."""
        once = {}
        for name, value in inputs.items():
            once[name] = self.once(value) if isinstance(value, torch.Tensor) else value
        return once


def find_repeats(inputs: dict[str, Any]) -> Repeats | None:
    """Find the rows that are read alike, from what the target takes for reading a whole prompt.

    Args:
        inputs: `input_ids` [R, S] and what else was prepared beside them.

    Returns:
        None where every prompt stands there once, or where more than rows of numbers is read, such
        as images, of which is not known to which row they belong.
    """
    rows = len(inputs["input_ids"])
    columns = []
    for value in inputs.values():
        if isinstance(value, dict):
            return None
        if not isinstance(value, torch.Tensor):
            continue
        if value.dim() != 2 or len(value) != rows or value.is_floating_point():
            return None
        columns.append(value.long())
    if rows == 1:
        return None
    prompts, source = torch.cat(columns, dim=1).unique(dim=0, return_inverse=True)
    if len(prompts) == rows:
        return None
    places = torch.arange(rows, device=source.device)
    first = places.new_full((len(prompts),), rows).scatter_reduce(0, source, places, "amin")
    return Repeats(first, source)
