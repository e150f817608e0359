"""Fixtures of the tests of decoding."""

from collections import Counter

import pytest
from tiny import tiny_target
from transformers import LlamaForCausalLM

from eagle_hf.compilation.packages import KeptForward
from eagle_hf.decoding import compiling


@pytest.fixture(scope="session")
def small_model() -> LlamaForCausalLM:
    """A draft model: smaller than the target and of other weights."""
    return tiny_target(layers=2, seed=3)


@pytest.fixture
def calls(monkeypatch):
    """How often each forward was called in place of a compiled one, by its name."""
    counted = Counter()

    class Uncompiled(KeptForward):
        def __init__(self, module):
            self.module = module
            self.buffer_shapes = module.buffer_shapes()

        def __call__(self, inputs):
            counted[self.module.name] += 1
            return self.module(*inputs)

        def reads(self, module):
            return True

    monkeypatch.setattr(compiling, "_kept", type(compiling._kept)())
    monkeypatch.setattr(compiling, "open_forward", Uncompiled)
    return counted
