"""The store of finished turns: what it keeps, what it refuses."""

import os
import signal
import sqlite3
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest

from eagle_hf.data.answers import MISSING, SERVED, TURNS, FinishedTurn, TurnStore

PROMPT = {"id": "p0", "turns": ["a", "b"], "category": "c", "source": "s"}
TURN = FinishedTurn(
    id="p0",
    turn=0,
    text="Grüße 你好",
    reasoning="well",
    finish_reason="stop",
    prompt_ids=[1, 2],
    prompt_ids_from=SERVED,
    response_ids=None,
    response_ids_from=MISSING,
    prompt_tokens=2,
    sampled_tokens=None,
    model="tiny",
)


def test_a_turn_comes_back_as_it_was(tmp_path):
    with TurnStore(tmp_path) as store:
        store.add(PROMPT, replace(TURN, turn=1))
        store.add(PROMPT, TURN)
    with TurnStore(tmp_path) as store:
        assert store.turns("p0") == [TURN, replace(TURN, turn=1)]
        assert store.prompt("p0") == PROMPT
        assert list(store.prompts()) == [PROMPT]
        assert store.turns("p1") == []
        assert store.prompt("p1") is None


def test_a_turn_that_is_there_is_never_replaced(tmp_path):
    with TurnStore(tmp_path) as store:
        assert store.add(PROMPT, TURN)
        assert not store.add(PROMPT, replace(TURN, text="another answer"))
        assert store.turns("p0") == [TURN]


def test_the_file_waits_for_the_disk_only_at_checkpoints(tmp_path):
    with TurnStore(tmp_path) as store:
        store.add(PROMPT, TURN)
        assert store._value("PRAGMA journal_mode") == "wal"
        assert store._value("PRAGMA synchronous") == 1  # NORMAL
        assert (tmp_path / f"{TURNS}-wal").stat().st_size > 0


def test_another_process_reads_a_turn_at_once(tmp_path):
    with TurnStore(tmp_path) as store:
        store.add(PROMPT, TURN)
        with TurnStore(tmp_path) as reader:
            assert reader.turns("p0") == [TURN]


def add_without_end(folder, added):
    """Add turns, and say after each how many are acknowledged."""
    with TurnStore(folder) as store:
        while True:
            store.add({**PROMPT, "id": str(added.value)}, replace(TURN, id=str(added.value)))
            added.value += 1


def test_a_killed_writer_loses_no_acknowledged_turn(tmp_path):
    context = get_context("fork")
    added = context.Value("i", 0)
    writer = context.Process(target=add_without_end, args=(tmp_path, added))
    writer.start()
    deadline = time.monotonic() + 10
    while added.value < 50 and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    acknowledged = added.value
    assert acknowledged >= 50
    with TurnStore(tmp_path) as store:
        for number in range(acknowledged):
            assert len(store.turns(str(number))) == 1
        assert len(list(store.prompts())) <= acknowledged + 1


def test_a_newer_format_is_refused(tmp_path):
    TurnStore(tmp_path).close()
    with sqlite3.connect(tmp_path / TURNS) as database:
        database.execute("PRAGMA user_version = 3")
    with pytest.raises(ValueError, match="has the format 3 and this version reads 2"):
        TurnStore(tmp_path)


def test_a_database_of_something_else_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / TURNS) as database:
        database.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ValueError, match="has the format 0"):
        TurnStore(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / TURNS).write_text("some notes of mine, and more of them\n" * 9)
    with pytest.raises(ValueError, match="is no store of turns"):
        TurnStore(tmp_path)
