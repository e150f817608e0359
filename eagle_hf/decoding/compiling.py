"""Forwards as one compiled graph each, for rounds whose tensors keep their sizes.

`TreeConfig(compile=True)` asks for it.
"""

from collections.abc import Callable

import torch

LEAST_SIZE = 256  # slots


def compiled(function: Callable, device: torch.device) -> Callable:
    """On a GPU the function compiled whole and captured as a CUDA graph; on a CPU as it is.

    A captured graph writes its results where the last ones lay. Begin every round with
    `mark_cudagraph_step`, and keep no result longer than that.
    """
    if device.type != "cuda":
        return function
    return torch.compile(function, fullgraph=True, dynamic=False, mode="reduce-overhead")


def fixed_size(slots: int) -> int:
    """Slots of a cache that keeps its size: a power of two, so that calls share their graphs."""
    return max(LEAST_SIZE, 1 << (slots - 1).bit_length())


def mark_cudagraph_step() -> None:
    """Allow captured graphs to overwrite what they wrote in the last round.

    Call it only where graphs are captured: the first call loads the compiler, for seconds.
    """
    torch.compiler.cudagraph_mark_step_begin()
