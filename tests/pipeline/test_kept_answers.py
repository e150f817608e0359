"""Answers to prompts that did not change survive a run that is killed while it keeps them."""

import json

import pytest

from eagle_hf.data import TurnStore
from eagle_hf.data.answers import FinishedTurn
from eagle_hf.pipeline.answers import keep_matching_answers
from eagle_hf.pipeline.records import set_aside


def prompt(number, text="w5"):
    return {"id": f"q{number}", "turns": [text], "category": "words", "source": "test"}


def answer(number):
    return FinishedTurn(
        f"q{number}", 0, "w8", "", "stop", [3], "served", [8, 2], "served", 1, 2, "tiny"
    )


@pytest.fixture
def asked(tmp_path):
    """Prompts, of which the first was another one when all were answered."""
    folder = tmp_path / "answers"
    with TurnStore(folder) as store:
        for number in range(4):
            store.add(prompt(number), answer(number))
    (folder / "manifest.json").write_text("{}")
    rows = [prompt(0, "w9"), *map(prompt, range(1, 4))]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def kept(folder):
    """The ids that have answers."""
    with TurnStore(folder) as store:
        return [prompt["id"] for prompt in store.prompts()]


class Killed(BaseException):
    """Ends a run as a signal does."""


def kill(*_):
    raise Killed


def kill_behind_the_rename(folder):
    set_aside(folder)
    raise Killed


@pytest.mark.parametrize(
    ("where", "what"), [("copy_turns", kill), ("set_aside", kill_behind_the_rename)]
)
def test_a_killed_run_keeps_the_answers_that_match(asked, monkeypatch, where, what):
    folder = asked.parent / "answers"
    with monkeypatch.context() as patch:
        patch.setattr(f"eagle_hf.pipeline.answers.{where}", what)
        with pytest.raises(Killed):
            keep_matching_answers(asked, folder)
    keep_matching_answers(asked, folder)
    assert kept(folder) == ["q1", "q2", "q3"]
    assert kept(asked.parent / "answers.old-1") == ["q0", "q1", "q2", "q3"]
    assert not (asked.parent / "answers.new").exists()
