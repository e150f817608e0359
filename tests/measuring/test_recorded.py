"""A replayed answer has the rounds of real decoding, without a forward of the target each."""

import pytest
import torch
from tiny import left_padded

from eagle_hf import TreeConfig
from eagle_hf.decoding.assistants import EagleAssistant
from eagle_hf.measuring.recorded import replay_answer, replayed_tree

SAMPLING = dict(max_new_tokens=50, do_sample=True, temperature=0.7, top_k=0, eos_token_id=None)
TREES = [
    TreeConfig(depth=4, top_k=5, nodes=12),
    TreeConfig("chain", depth=3),
    TreeConfig("sequoia", parents=(0, 0, 0, 1, 1, 3), ranks=(0, 0, 1, 0, 1, 0)),
]


@pytest.mark.parametrize("tree", TREES, ids=["dynamic", "chain", "sequoia"])
def test_rounds_are_those_of_real_decoding(target, trained_head, tree):
    for seed in range(3):
        prompt = left_padded(target, [7], seed)["input_ids"]
        torch.manual_seed(seed)
        assistant = EagleAssistant(trained_head, tree)
        answer = target.generate(prompt, assistant_model=assistant, **SAMPLING)[0, 7:]
        real = trained_head.last_run
        replayed = replay_answer(target, assistant, prompt, answer, tree)
        assert (replayed.rounds, replayed.tokens) == (real.rounds, real.tokens)
        assert replayed.accepted == real.accepted
        assert replayed.tau > 1


def test_an_answer_of_one_token_has_no_round(target, trained_head):
    prompt = left_padded(target, [7])["input_ids"]
    stats = replay_answer(target, trained_head, prompt, torch.tensor([5]), TREES[0])
    assert stats.rounds == 0


def test_a_tree_that_needs_costs_or_draws_is_replaced():
    planned = TreeConfig("adaptive", depth=4, top_k=5, nodes=12)
    assert replayed_tree(planned) == TREES[0]
    drawn = TreeConfig("chain", depth=3, acceptance="rejection", compile=True)
    assert replayed_tree(drawn) == TREES[1]
    assert replayed_tree(TREES[2]) == TREES[2]
