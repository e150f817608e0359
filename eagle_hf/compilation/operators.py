"""The matrix products of linear.cpp as torch operators, and the choice between them and torch's.

Shapes: x [..., K], a weight [N, K], a bias [N], a product [..., N]. The rows of x are all its
dimensions but the last, multiplied.

State: the operators are registered with torch, once a process.
"""

import threading
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers.utils import logging

from eagle_hf.compilation.building import BuildError, build_library

logger = logging.get_logger(__name__)

SOURCE = Path(__file__).with_name("linear.cpp")
DTYPES = (torch.float32, torch.bfloat16)
# From about 48 rows on in float32, and 32 in bfloat16, torch's own product is the faster one.
# Measured on an EPYC 9004, all linear layers of SmolLM2-135M, one thread.
MOST_ROWS = 32


class Library:
    """The compiled operators: not tried yet, loaded, or refused for a reason that was said."""

    def __init__(self) -> None:
        self.loaded: bool | None = None
        self._lock = threading.Lock()

    def load(self) -> bool:
        """Compile and register the operators at the first call; whether they can be used."""
        with self._lock:
            if self.loaded is None:
                self.loaded = self._try()
            return self.loaded

    def _try(self) -> bool:
        """Load the library, or say why torch's own products are used."""
        try:
            torch.ops.load_library(build_library(SOURCE))
        except (BuildError, OSError) as error:  # OSError: the folder may not hold programs
            logger.warning_once(f"torch's own matrix products are used: {error}")
            return False
        torch.library.register_fake("eagle_hf::linear", _fake_linear)
        torch.library.register_fake("eagle_hf::linears", _fake_linears)
        return True


LIBRARY = Library()


def is_available() -> bool:
    """Whether `torch.ops.eagle_hf` can be used here. The first call compiles it, in seconds.

    Where it cannot, the reason is said once.
    """
    return LIBRARY.load()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, by the operator where it can be used and is the faster one.

    With the operator, a row's result is the same bit for bit however many rows x has, up to
    `MOST_ROWS`.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].

    Returns:
        [..., N], in the dtype of x.
    """
    if is_for_operator(x, weight):
        return torch.ops.eagle_hf.linear(x, weight, bias)
    return functional.linear(x, weight, bias)


def linears(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """Return x @ weight.T for every weight, as `linear` without biases does, in one call.

    Args:
        x: [..., K].
        weights: Matrices [N, K], each with an N of its own.

    Returns:
        [..., N] for every weight.
    """
    if all(is_for_operator(x, weight) for weight in weights):
        return torch.ops.eagle_hf.linears(x, weights)
    return [functional.linear(x, weight) for weight in weights]


def is_for_operator(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is one of few rows, without a gradient, that the operator can compute."""
    if x.device.type != "cpu" or x.dtype not in DTYPES or weight.dtype != x.dtype:
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return False
    has_few_rows = x.numel() <= MOST_ROWS * x.shape[-1]
    return has_few_rows and weight.stride(-1) == 1 and is_available()


def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The shape and dtype of a product."""
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _fake_linears(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """The shapes and dtype of several products."""
    return [_fake_linear(x, weight, None) for weight in weights]
