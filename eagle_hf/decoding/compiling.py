"""Forwards as one compiled graph each: for rounds whose tensors keep their sizes (`TreeConfig(compile=True)`)."""

from collections.abc import Callable

import torch


def compiled(function: Callable, device: torch.device) -> Callable:
    """On a GPU the function compiled without a break and captured as a CUDA graph, on a CPU the function itself.

    A captured graph writes its results where the last ones lay: begin every round with `begin_round`, and keep no result longer.
    """
    if device.type != "cuda":
        return function
    return torch.compile(function, fullgraph=True, dynamic=False, mode="reduce-overhead")


def fixed_size(slots: int) -> int:
    """Slots of a cache that never changes its size, `slots` or more: powers of two, so that calls of many lengths share few graphs."""
    return max(256, 1 << (slots - 1).bit_length())


def begin_round() -> None:
    """What captured graphs wrote in the last round may be written over. Only for those: the first call loads the compiler, for seconds."""
    torch.compiler.cudagraph_mark_step_begin()
