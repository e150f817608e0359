"""How often guesses are taken: measured along the target's answers, saved with the head."""

import json
from copy import deepcopy

import pytest
import torch
from tiny import tiny_head

from eagle_hf import Eagle3DraftHead
from eagle_hf.head.acceptance import Acceptance
from eagle_hf.measuring.acceptance import measure_acceptance, save_acceptance


def test_acceptance_is_measured_along_the_targets_answers(target, trained_head):
    starts = [torch.tensor([[3, 5 + i, 6]]) for i in range(4)]
    wrong_head = deepcopy(trained_head)
    with torch.no_grad():
        wrong_head.lm_head.weight.neg_()
    trained = measure_acceptance(target, trained_head, starts)
    wrong = measure_acceptance(target, wrong_head, starts)
    assert sum(trained.shares[0]) > 1.5 * sum(wrong.shares[0])
    for shares in trained.shares:
        assert sum(shares) <= 1


def test_without_an_answer_of_two_tokens_nothing_is_said_of_acceptance(
    target, trained_head, saved_head
):
    starts = [torch.tensor([[3, 5, 6]])]
    assert measure_acceptance(target, trained_head, starts, max_new_tokens=1) is None
    before = (saved_head / "config.json").read_text()
    save_acceptance(saved_head, None)
    assert (saved_head / "config.json").read_text() == before


def test_acceptance_is_added_to_a_saved_head(saved_head):
    acceptance = Acceptance(shares=((0.5, 0.25),))
    before = json.loads((saved_head / "config.json").read_text())
    save_acceptance(saved_head, acceptance)
    after = json.loads((saved_head / "config.json").read_text())
    assert Eagle3DraftHead.from_pretrained(saved_head).acceptance == acceptance
    assert after["eagle_hf"].pop("acceptance")
    assert after == before


def test_acceptance_is_saved_with_the_head(target, tmp_path):
    head = tiny_head(target)
    assert head.acceptance is None
    acceptance = Acceptance(shares=((0.5, 0.25), (0.4, 0.2)), slopes=(1.5,), offsets=(0.1,))
    head.acceptance = acceptance
    head.save_pretrained(tmp_path)
    assert Eagle3DraftHead.from_pretrained(tmp_path).acceptance == acceptance


@pytest.mark.parametrize(
    "shares, slopes",
    [
        (((1.5,),), (1.0,)),
        (((0.6, 0.5),), (1.0,)),
        (((0.5,), (0.5, 0.2)), (1.0,)),
        ((), (1.0,)),
        (((float("nan"),),), (1.0,)),
        (((0.5,),), (float("inf"),)),
        (((0.5,),), ()),
    ],
)
def test_an_impossible_acceptance_is_refused(shares, slopes):
    with pytest.raises(ValueError, match="needed are|give one of each"):
        Acceptance(shares=shares, slopes=slopes)
