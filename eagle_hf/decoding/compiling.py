"""Forwards as one compiled graph each, for rounds whose tensors keep their sizes.

`TreeConfig(compile=True)` asks for it.
"""

from collections.abc import Callable

import torch

LEAST_SIZE = 256  # slots
MOST_SHAPES = 512  # that one function is compiled for, over all models and batches of a process


def compiled(function: Callable, device: torch.device) -> Callable:
    """On a GPU the function compiled whole and captured as a CUDA graph; on a CPU as it is.

    A captured graph writes its results where the last ones lay. Begin every round with
    `mark_cudagraph_step`, and keep no result longer than that.
    """
    if device.type != "cuda":
        return function
    allow_many_shapes()
    return torch.compile(function, fullgraph=True, dynamic=False, mode="reduce-overhead")


def allow_many_shapes() -> None:
    """Raise torch's limit on the shapes of a function, for the process.

    The limit counts over all models, and a ninth shape would end the call with an error.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MOST_SHAPES)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, MOST_SHAPES)


def fixed_size(slots: int) -> int:
    """Slots of a cache that keeps its size: a power of two, so that calls share their graphs."""
    return max(LEAST_SIZE, 1 << (slots - 1).bit_length())


def mark_cudagraph_step() -> None:
    """Allow captured graphs to overwrite what they wrote in the last round.

    Call it only where graphs are captured: the first call loads the compiler, for seconds.
    """
    torch.compiler.cudagraph_mark_step_begin()
