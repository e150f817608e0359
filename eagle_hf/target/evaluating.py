"""Eval mode for a while."""

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Turn dropout off inside the block, and the kernels that some modules have for training.

    Args:
        module: A model or a part of one. It and all that is in it return to their former modes.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, was_training in modes:  # whole before part: train() reaches down
            part.train(was_training)
