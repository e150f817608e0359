"""Agreement and evaluation loss, counted over batches of different sizes."""

import pytest
import torch
from accelerate import Accelerator

from eagle_hf.training.metrics import EvaluationMetrics, LossMetrics


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def add(metrics, loss, learnt, hits, trials):
    """Count a batch of one row with so many learnt tokens."""
    labels = torch.tensor([[-100, -100] + [5] * learnt])
    metrics.add(torch.tensor(loss), labels, torch.tensor(hits), torch.tensor(trials))


def test_agreement_is_counted_over_batches_until_the_reset(accelerator):
    metrics = LossMetrics(torch.device("cpu"))
    add(metrics, 1.0, 3, hits=[1, 0], trials=[3, 2])
    add(metrics, 1.0, 1, hits=[1, 1], trials=[1, 1])
    assert metrics.compute(accelerator) == {"acc_0": 0.5, "acc_1": 0.3333}
    metrics.reset()
    assert metrics.compute(accelerator) == {}


def test_passes_may_become_more_and_fewer(accelerator):
    metrics = LossMetrics(torch.device("cpu"))
    add(metrics, 1.0, 4, hits=[1], trials=[4])
    add(metrics, 1.0, 4, hits=[1, 2, 0], trials=[4, 4, 4])
    add(metrics, 1.0, 4, hits=[4], trials=[4])
    assert metrics.compute(accelerator) == {"acc_0": 0.5, "acc_1": 0.5, "acc_2": 0.0}


def test_the_evaluation_loss_weighs_tokens_not_batches(accelerator):
    metrics = EvaluationMetrics(torch.device("cpu"))
    add(metrics, 9.0, 3, hits=[0], trials=[3])
    add(metrics, 1.0, 1, hits=[1], trials=[1])
    assert metrics.compute(accelerator) == {"loss": 2.5, "acc_0": 0.25}
