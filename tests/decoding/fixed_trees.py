"""Trees and assistants of the tests of compile=True."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from drafting import given_tree
from transformers import PreTrainedModel

from eagle_hf import Eagle3DraftHead, SelfSpeculation, TreeConfig, WindowedDraft

SHAPES = {
    "dynamic": TreeConfig(depth=4, top_k=4, nodes=11),
    "chain": TreeConfig("chain", depth=3),
    "deep": TreeConfig(depth=7, top_k=2, nodes=3),
    "fixed": TreeConfig("sequoia", parents=(0, 0, 0, 1, 1, 2, 3), ranks=(0, 0, 1, 0, 1, 0, 0)),
}


def assistant_of(name: str, head: Eagle3DraftHead, small_model: PreTrainedModel) -> Any:
    """The assistant of this name, made of a head or of a small model where it needs one."""
    return {
        "head": head,
        "model": WindowedDraft(small_model, window=None),
        "window": WindowedDraft(small_model, 2, 9),
        "itself": SelfSpeculation(2, 9),
    }[name]


def compiling(assistant: Any, tree: TreeConfig) -> AbstractContextManager:
    """The assistant with this tree and compile=True inside the block."""
    return given_tree(assistant, replace(tree, compile=True))
