"""Drafters without a run, and assistants with another tree for a while."""

from contextlib import contextmanager

from eagle_hf import TreeConfig
from eagle_hf.decoding.assistants import DraftContext, as_assistant
from eagle_hf.decoding.caches.target import TargetCache


def drafter_of(assistant, target, tree=None):
    """The drafter of an assistant, on an empty cache of the target's."""
    assistant = as_assistant(assistant)
    tree = tree or assistant.tree
    return assistant.drafter(DraftContext.without_run(target, TargetCache(), tree))


@contextmanager
def given_tree(assistant, tree: TreeConfig):
    """The assistant with another tree inside the block."""
    own = assistant.tree
    assistant.tree = tree
    try:
        yield assistant
    finally:
        assistant.tree = own
