"""The demo's models, tiny: a random target, a random head with wide trees, words as tokens."""

import pytest
from tiny import word_tokenizer

from eagle_hf.demo import DemoModels


@pytest.fixture(scope="session")
def models(target, head) -> DemoModels:
    return DemoModels(target, word_tokenizer(), head, "tiny", "luck")
