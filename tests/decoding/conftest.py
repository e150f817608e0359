"""Fixtures of the tests of decoding."""

import pytest
from tiny import tiny_target
from transformers import LlamaForCausalLM


@pytest.fixture(scope="session")
def small_model() -> LlamaForCausalLM:
    """A draft model: smaller than the target and of other weights."""
    return tiny_target(layers=2, seed=3)
