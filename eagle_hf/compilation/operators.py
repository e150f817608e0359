"""The matrix product of linear.cpp as a torch operator, `torch.ops.eagle_hf.linear`.

Shapes: x [..., K], a weight [N, K], a bias [N], a product [..., N]. The rows of x are all its
dimensions but the last, multiplied. A row's result is the same bit for bit however many rows x
has, up to 48 of them. More rows are multiplied by torch, which is as fast then.

State: the operator is registered with torch, once a process.
"""

import threading
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging

from eagle_hf.compilation.building import BuildError, build_library

logger = logging.get_logger(__name__)

SOURCE = Path(__file__).with_name("linear.cpp")
DTYPES = (torch.float32, torch.bfloat16)


class Library:
    """The compiled operator: not tried yet, loaded, or refused for a reason that was said."""

    def __init__(self) -> None:
        self.loaded: bool | None = None
        self._lock = threading.Lock()

    def load(self) -> bool:
        """Compile and register the operator at the first call; whether it can be used."""
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
        return True


LIBRARY = Library()


def is_available() -> bool:
    """Whether `torch.ops.eagle_hf.linear` can be used here. The first call compiles it, in seconds.

    Where it cannot, the reason is said once.
    """
    return LIBRARY.load()


def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The shape and dtype of a product."""
    return x.new_empty(*x.shape[:-1], weight.shape[0])
