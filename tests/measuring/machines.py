"""Machines with given costs, and calls of generate to try them with."""

from typing import Any

import pytest
import torch
from tiny import left_padded
from transformers import PreTrainedModel

from eagle_hf.measuring import machine_costs
from eagle_hf.planning.cost import CostTable

# seconds of 1, 2, 4, 8, 16 tokens
CHEAP_TREES = (0.04, 0.041, 0.042, 0.044, 0.048)
DEAR_TREES = (0.04, 0.08, 0.16, 0.32, 0.64)


def costs_of(seconds: tuple[float, ...], facts: dict | None = None, batch: int = 1) -> CostTable:
    """The table of a machine on which tokens cost this."""
    return CostTable(
        batches=(batch,),
        lengths=(64,),
        tokens=(1, 2, 4, 8, 16),
        widths=(1, 8),
        target=((seconds,),),
        draft=(((0.003, 0.004),),),
        overhead=(0.003,),
        facts=facts or {},
    )


def pretend_machine(monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...]) -> list[int]:
    """Let the machine be one on which tokens cost this.

    Returns:
        A list that gets the batch whenever the machine is measured.
    """
    batches = []

    def measure_quickly(target, head, batch, facts):
        batches.append(batch)
        return costs_of(seconds, facts, batch)

    monkeypatch.setattr(machine_costs, "measure_quickly", measure_quickly)
    return batches


def answer(
    target: PreTrainedModel, assistant: Any, lengths: tuple[int, ...] = (7,), **settings: Any
) -> torch.Tensor:
    """40 greedy tokens after prompts of these lengths; `settings` replace these."""
    settings = dict(max_new_tokens=40, do_sample=False, eos_token_id=None) | settings
    inputs = left_padded(target, list(lengths))
    return target.generate(**inputs, assistant_model=assistant, **settings)
