"""The attention of attend.cpp as a torch operator.

Shapes: B batch, h query heads, g key heads, N tokens, L slots in use, D head width.

State: the operator is registered with torch, once a process.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from eagle_hf.compilation.building import build_library

SOURCE = Path(__file__).with_name("attend.cpp")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


@cache
def load_attention() -> None:
    """Register `torch.ops.eagle_hf.attend`, which is compiled where there is no library yet.

    Raises:
        BuildError: It cannot be compiled or kept.
    """
    torch.ops.load_library(build_library(SOURCE))
    torch.library.register_fake("eagle_hf::attend", _fake_attend)


def _fake_attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The output [B, h, N, D], which lies in memory as [B, N, h, D]."""
    batch, heads, tokens, width = query.shape
    return query.new_empty(batch, tokens, heads, width).transpose(1, 2)
