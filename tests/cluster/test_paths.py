"""Workers have another working directory: paths are absolute, names of the Hub are not touched."""

import pytest

from eagle_hf.cluster.paths import everywhere, for_workers
from eagle_hf.pipeline import read_config


def config(**changes):
    """Settings of a run."""
    flags = {"target": "you/your-model", "output_dir": "out", "prompts.magpie": 1}
    return read_config(None, flags | {name.replace("__", "."): changes[name] for name in changes})


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a target."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_target_that_lies_here_is_found_from_elsewhere(here):
    found = for_workers(config(target="mine", tokenizer="mine"))
    assert found.target == found.tokenizer == str(here / "mine")


def test_names_of_the_hub_and_of_the_embedded_target_stay(here):
    assert for_workers(config()).target == "you/your-model"
    assert for_workers(config(target="smollm2")).target == "smollm2"


def test_storage_is_absolute_before_it_exists(here):
    assert for_workers(config(cluster__storage="shared")).cluster.storage == str(here / "shared")
    url = "s3://bucket/run"
    assert for_workers(config(cluster__storage=url)).cluster.storage == url
    assert for_workers(config()).cluster.storage is None


def test_folders_of_features_are_absolute_and_urls_stay(here):
    assert everywhere("out/features") == str(here / "out" / "features")
    assert everywhere("s3://bucket/features") == "s3://bucket/features"
