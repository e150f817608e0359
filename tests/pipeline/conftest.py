"""A tiny target on disk, and a folder for its runs."""

import pytest
import torch
from tiny import tiny_target, word_tokenizer
from workplaces import Workplace


@pytest.fixture(scope="session")
def target_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "target"
    tiny_target(dtype=torch.float32, eos_token_id=2).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def workplace(tmp_path, target_folder):
    return Workplace(tmp_path, target_folder)
