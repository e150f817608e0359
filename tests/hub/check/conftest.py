"""A target, sound heads for it, and copies of these to be broken."""

import shutil

import pytest
import torch
from breaking import ROPE
from tiny import tiny_head, tiny_target

from eagle_hf.hub.check import check


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folders of a target of 8 layers and of two sound heads: of a part and of all its tokens."""
    folder = tmp_path_factory.mktemp("saved")
    target = tiny_target(layers=8, dtype=torch.float32, rope_parameters=ROPE)
    target.save_pretrained(folder / "target")
    for name, size in (("head", 24), ("whole", 31)):
        head = tiny_head(target, size)
        with torch.no_grad():
            for key, weight in head.named_parameters():
                if "norm" in key:
                    weight.uniform_(0.5, 1.5)  # all ones would look untrained
        head.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def target(saved):
    return saved / "target"


@pytest.fixture(scope="session")
def sound(saved, target):
    """The report of the sound head."""
    return check(saved / "head", target)


@pytest.fixture
def head(saved, tmp_path):
    """A copy of the sound head, to be broken."""
    return shutil.copytree(saved / "head", tmp_path / "head")
