"""The attention of attend.cpp, over a cache in place, as torch operators.

Shapes: B batch, h query heads, g key heads, N tokens, L slots in use, D head width.

State: the operators are registered with torch, once a process.
"""

import threading
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from eagle_hf.compilation.building import build_library

SOURCE = Path(__file__).with_name("attend.cpp")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
LOCK = threading.Lock()


def load_attention() -> None:
    """Register `eagle_hf::attend` and `eagle_hf::store`, compiled where there is no library yet.

    Raises:
        BuildError: It cannot be compiled or kept.
    """
    with LOCK:
        _register()


@cache
def _register() -> None:
    """Load the library; a failure is not remembered, the next call tries again."""
    torch.ops.load_library(build_library(SOURCE))
    torch.library.register_fake("eagle_hf::attend", _fake_attend)
    torch.library.register_fake("eagle_hf::store", _fake_store)


def _fake_attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The output [B, h, N, D], which lies in memory as [B, N, h, D]."""
    batch, heads, tokens, width = query.shape
    return query.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _fake_store(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, slots: Tensor
) -> None:
    """Nothing is returned: keys [B, g, N, D] and values go to `slots` [B, N] of the buffers."""
