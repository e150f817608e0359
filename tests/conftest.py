"""Fixtures shared by all tests; nothing downloads, nothing needs a GPU."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import time_budget
import torch
from tiny import quickly_trained, tiny_head, tiny_target
from transformers import LlamaForCausalLM
from transformers.utils import logging

from eagle_hf import Eagle3DraftHead
from eagle_hf.decoding import compiling
from eagle_hf.measuring import machine_costs

# trackio looks where it writes when it is imported, which TRL's trainers do
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")
torch.set_num_threads(1)  # tiny models: more threads only wait for each other


def pytest_addoption(parser: pytest.Parser) -> None:
    time_budget.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    time_budget.install(config)


@pytest.fixture(scope="session")
def target() -> LlamaForCausalLM:
    return tiny_target()


@pytest.fixture(scope="session")
def head(target: LlamaForCausalLM) -> Eagle3DraftHead:
    return tiny_head(target)


@pytest.fixture(scope="session")
def trained_head(target: LlamaForCausalLM) -> Eagle3DraftHead:
    return quickly_trained(target, tiny_head(target))


@pytest.fixture(scope="session")
def adversarial_head(target: LlamaForCausalLM) -> Eagle3DraftHead:
    """A head that prefers what it holds least likely."""
    head = tiny_head(target)
    with torch.no_grad():
        head.lm_head.weight.neg_()
    return head


@pytest.fixture
def fixed_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """compile=True keeps all sizes on the CPU too, as on a GPU."""
    monkeypatch.setattr(compiling, "ANY_SIZE", set())


@pytest.fixture(autouse=True, scope="session")
def own_measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measurements of the machine go to a folder of this test run, not to the user's cache."""
    folder = tmp_path_factory.mktemp("costs")

    def measurements() -> Path:
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_costs, "measurements", measurements)
        yield


@pytest.fixture(autouse=True)
def progress_bars() -> Iterator[None]:
    """A trainer that shows no bar hides those of the whole library, and of later tests."""
    had_bars = logging.is_progress_bar_enabled()
    yield
    if had_bars:
        logging.enable_progress_bar()
