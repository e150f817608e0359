"""A fresh head takes over what the target knows."""

import pytest
import torch

from eagle_hf import new_head
from eagle_hf.target import target_states


def test_new_head_starts_from_the_target(target, examples):
    head, _ = new_head(target, examples, 20, fc_norm=True)
    assert torch.equal(head.lm_head.weight, target.lm_head.weight[head.draft_to_target])


def test_the_draft_vocabulary_is_the_most_frequent_response_tokens(target, examples):
    head, covered = new_head(target, examples, 20)
    responses = []
    for example in examples:
        responses += example["input_ids"][4:]
    counts = torch.bincount(torch.tensor(responses), minlength=31)
    chosen = counts[head.draft_to_target]
    assert covered == pytest.approx(float(chosen.sum() / counts.sum()))
    assert chosen.min() >= counts.sort().values[11]


def test_every_dimension_of_calibrated_states_is_as_loud(target, examples):
    head, _ = new_head(target, examples, 20, fc_norm=True)
    longest = torch.tensor([example["input_ids"][:32] for example in examples[-8:]])
    aux, _ = target_states(target, longest, [2, 3, 4])
    for norm, states in zip(head.fc_norm, aux.chunk(3, dim=-1), strict=True):
        spread = norm(states).square().mean((0, 1))
        assert torch.allclose(spread, torch.ones(32), atol=1e-4)


def test_a_draft_vocabulary_larger_than_the_text_is_refused(target):
    examples = [{"id": "x", "input_ids": [5, 6], "loss_mask": [0, 1]}]
    with pytest.raises(ValueError, match="hold 1 distinct tokens"):
        new_head(target, examples, 20)
