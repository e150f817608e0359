"""A policy that FSDP2 has sharded, whole for as long as it generates or teaches.

A sharded layer is gathered when it runs, by all processes together. Answers end at different steps
in different processes, which would then wait for each other for ever. So the weights are gathered
once, before, and given back afterwards. Every process needs the memory for all of them.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch.distributed.fsdp import FSDPModule

from eagle_hf.target import unwrap


@contextmanager
def gathered(policy: Any) -> Generator[None]:
    """Keep the policy's weights whole inside the block, which all processes enter together."""
    root = unwrap(policy)
    parts = [part for part in root.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not root, recurse=False)  # FSDP2's defaults
            part.reshard()


def is_whole(policy: Any) -> bool:
    """Whether every weight is in this process, or can be gathered by `gathered`.

    ZeRO-3 leaves empty weights in a process, but inside of DeepSpeed's own gathering.
    """
    for parameter in unwrap(policy).parameters():
        if not parameter.numel() and getattr(parameter, "ds_numel", 0):
            return False
    return True
