"""A tiny target on disk, and a folder for its runs."""

import shutil

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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, target_folder):
    """A folder in which all steps are done; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("finished")
    place = Workplace(folder, target_folder)
    return place, place.run()


@pytest.fixture
def finished(tmp_path, finished_run):
    """A workplace where all steps are done, and what their run returned."""
    place, metrics = finished_run
    shutil.copytree(place.output, tmp_path / "out")
    copy = Workplace(tmp_path, place.flags["target"])
    # The source of prompts is known by its path.
    copy.flags["prompts.sources"] = [str(place.file)]
    return copy, metrics


@pytest.fixture
def workplace(tmp_path, target_folder):
    return Workplace(tmp_path, target_folder)
