"""`pytest --minutes N` in runs of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from time_budget import TimeBudget

PLUGIN = """
import sys
sys.path.insert(0, {folder!r})
from time_budget import add_option, install

def pytest_addoption(parser):
    add_option(parser)

def pytest_configure(config):
    install(config)
"""
TESTS = """
import time

def test_one():
    time.sleep(1.2)

def test_two():
    assert True

def test_three():
    raise ValueError
"""


def run(folder: Path, *flags: str) -> tuple[int, str]:
    """(exit status, output) of pytest in a folder with three tests."""
    (folder / "conftest.py").write_text(PLUGIN.format(folder=str(Path(__file__).parent)))
    (folder / "test_them.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_what_would_begin_too_late_is_skipped_by_name(tmp_path):
    status, output = run(tmp_path, "--minutes", "0.01")
    assert "1 passed, 2 skipped" in output
    assert "the 0.01 minutes of this run are over" in output
    assert status == 0


def test_a_failure_within_the_budget_is_one(tmp_path):
    status, output = run(tmp_path, "--minutes", "5")
    assert "1 failed, 2 passed" in output
    assert status == 1


def test_without_a_budget_all_run(tmp_path):
    assert run(tmp_path)[0] == 1


@pytest.mark.parametrize("processes", ["2"])
def test_processes_keep_it_too(tmp_path, processes):
    status, output = run(tmp_path, "--minutes", "0", "-n", processes)
    assert "3 skipped" in output
    assert status == 0


class Item:
    """A test of a file."""

    def __init__(self, path: str):
        self.path = path


def test_every_day_begins_with_another_file():
    firsts = set()
    for day in range(3):
        items = [Item(path) for path in ("a", "a", "b", "c")]
        TimeBudget(1.0, day).pytest_collection_modifyitems(items)
        paths = [item.path for item in items]
        assert sorted(paths) == ["a", "a", "b", "c"]
        assert "".join(paths) in "aabcaabc"
        firsts.add(paths[0])
    assert firsts == {"a", "b", "c"}
