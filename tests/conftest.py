"""Fixtures shared by all tests; nothing downloads, nothing needs a GPU."""

import pytest
import torch
from tiny import quickly_trained, tiny_head, tiny_target

from eagle_hf.measuring import machine_costs

torch.set_num_threads(1)  # tiny models: more threads only wait for each other


@pytest.fixture(scope="session")
def target():
    return tiny_target()


@pytest.fixture(scope="session")
def head(target):
    return tiny_head(target)


@pytest.fixture(scope="session")
def trained_head(target):
    return quickly_trained(target, tiny_head(target))


@pytest.fixture(scope="session")
def adversarial_head(target):
    head = tiny_head(target)
    with torch.no_grad():
        head.lm_head.weight.neg_()
    return head


@pytest.fixture(autouse=True, scope="session")
def own_measurements(tmp_path_factory):
    """What tests measure of the machine is kept in a folder of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            machine_costs, "measurements", lambda folder=tmp_path_factory.mktemp("costs"): folder
        )
        yield
