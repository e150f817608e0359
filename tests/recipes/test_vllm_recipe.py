"""The recipe that runs vLLM keeps no file without states; tests/engines runs it with vLLM."""

import os
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from engine_folders import engine_tensors
from safetensors.torch import load_file, save_file
from tiny import tiny_target

RECIPE = Path(__file__).parents[2] / "recipes" / "engine_states.py"
TOKENS = [5, 9, 7, 11]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = util.spec_from_file_location(RECIPE.stem, RECIPE)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def unfinished(tmp_path) -> Path:
    """A file that vLLM has just written, and its lock."""
    path = tmp_path / "a.part"
    target = tiny_target(dtype=torch.float32)
    save_file(engine_tensors(target, TOKENS, [2, 3, 4, 7]), path)
    (tmp_path / "a.part.lock").touch()
    return path


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_whole_file_gets_its_name(recipe, unfinished, tmp_path):
    assert recipe.finish(unfinished, TOKENS) is None
    assert names(tmp_path) == ["a.safetensors"]


def test_a_text_without_a_file_is_lost(recipe, tmp_path):
    assert recipe.finish(tmp_path / "b.part", TOKENS) == "vLLM wrote no file"


def no_states_for_two(tensors):
    tensors["hidden_states"][1:3] = 0


def not_finite(tensors):
    tensors["hidden_states"][2, 1, 5] = float("nan")


def without_the_last(tensors):
    for name in tensors:
        tensors[name] = tensors[name][:-1].clone()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (no_states_for_two, "2 of its 4 tokens have no states"),
        (not_finite, "its states are not finite"),
        (without_the_last, "vLLM read 3 of its 4 tokens"),
    ],
)
def test_states_that_cannot_be_used_are_removed_and_named(
    recipe, unfinished, tmp_path, damage, problem
):
    tensors = load_file(unfinished)
    damage(tensors)
    save_file(tensors, unfinished)
    assert recipe.finish(unfinished, TOKENS) == problem
    assert names(tmp_path) == []


def test_a_torn_file_is_removed_and_named(recipe, unfinished, tmp_path):
    os.truncate(unfinished, 100)
    assert recipe.finish(unfinished, TOKENS).startswith("its file cannot be opened")
    assert names(tmp_path) == []


def test_texts_whose_states_are_there_are_not_read_again(recipe, tmp_path):
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "b.safetensors").touch()
    lines = [f'{{"name": "{name}", "token_ids": [1]}}\n' for name in "abc"]
    (tmp_path / "tokens.jsonl").write_text("".join(lines))
    texts = recipe.in_chunks(recipe.missing_texts(tmp_path), 1)
    assert [chunk[0]["name"] for chunk in texts] == ["a", "c"]
