"""Fixtures of the tests of measuring."""

from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
from transformers.utils.logging import get_logger

from eagle_hf import Eagle3DraftHead
from eagle_hf.measuring import automatic, machine_costs


@pytest.fixture
def saved_head(trained_head: Eagle3DraftHead, tmp_path: Path) -> Path:
    """The folder of a trained head."""
    trained_head.save_pretrained(tmp_path / "head")
    return tmp_path / "head"


@pytest.fixture
def opened_head(saved_head: Path) -> Eagle3DraftHead:
    """A head whose tree the machine chooses."""
    return Eagle3DraftHead.from_pretrained(saved_head).eval()


@pytest.fixture
def costs_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where measurements are kept during this test; nothing is known yet."""
    folder = tmp_path / "costs"

    def measurements() -> Path:
        return folder

    monkeypatch.setattr(machine_costs, "measurements", measurements)
    monkeypatch.setattr(machine_costs, "_known", WeakKeyDictionary())
    return folder


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of measurements."""
    lines = []
    monkeypatch.setattr(machine_costs.logger, "warning", lines.append)
    return lines


@pytest.fixture
def warnings_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of plans and measurements that are not used."""
    lines = []
    monkeypatch.setattr(get_logger(automatic.__name__), "warning_once", lines.append)
    return lines
