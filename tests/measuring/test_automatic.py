"""The tree by machine: chosen by what was measured; an explicit tree and a saved plan win."""

import logging

import pytest
import torch
from machines import CHEAP_TREES, DEAR_TREES, answer, costs_of, pretend_machine
from tiny import tiny_head

from eagle_hf import Eagle3DraftHead, Plan, TreeConfig
from eagle_hf.decoding.assistants import as_assistant
from eagle_hf.head.acceptance import Acceptance
from eagle_hf.measuring import automatic, machine_costs
from eagle_hf.planning.calibration import Calibration


def answers_under_one_seed(target, head, lengths=(7,), **settings):
    """[output of the target alone, output with the head]."""
    outputs = []
    for assistant in (None, head):
        torch.manual_seed(3)
        outputs.append(answer(target, assistant, lengths, **settings))
    return outputs


@pytest.mark.parametrize("lengths", [(7,), (4, 9, 6)])
def test_output_equals_the_target_alone(target, opened_head, costs_folder, lengths):
    assert torch.equal(answer(target, opened_head, lengths), answer(target, None, lengths))


def test_sampled_output_equals_the_target_alone_though_measuring_draws(
    target, opened_head, costs_folder
):
    plain, fast = answers_under_one_seed(target, opened_head, do_sample=True)
    assert torch.equal(plain, fast)


def test_where_trees_are_cheap_it_drafts(target, opened_head, costs_folder, monkeypatch):
    pretend_machine(monkeypatch, CHEAP_TREES)
    answer(target, opened_head)
    assert opened_head.last_run.trials[0] > 0


def test_where_trees_are_dear_it_decodes_plainly(
    target, opened_head, costs_folder, monkeypatch, notices
):
    pretend_machine(monkeypatch, DEAR_TREES)
    answer(target, opened_head)
    assert opened_head.last_run.trials == []
    assert opened_head.last_run.tau == 1.0
    assert "no draft pays, so this is plain decoding" in notices[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_sample": True},
        {"return_dict_in_generate": True, "output_scores": True},
        {"eos_token_id": [5, 9]},
        {"repetition_penalty": 1.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [(7,), (4, 9, 6)])
def test_plain_decoding_is_transformers_own(
    target, opened_head, costs_folder, monkeypatch, notices, lengths, settings
):
    pretend_machine(monkeypatch, DEAR_TREES)
    plain, ours = answers_under_one_seed(target, opened_head, lengths, **settings)
    assert type(plain) is type(ours)
    sequences = getattr(plain, "sequences", plain)
    assert torch.equal(sequences, getattr(ours, "sequences", ours))
    run = opened_head.last_run
    assert run.rounds == run.tokens
    tokens = 0
    for row in sequences[:, max(lengths) :].tolist():
        tokens += tokens_behind_the_first(row, settings.get("eos_token_id", ()))
    assert run.tokens == tokens


def tokens_behind_the_first(row, end_tokens):
    """How many tokens of a row follow its first one, up to an end token."""
    for index, token in enumerate(row):
        if token in end_tokens:
            return index
    return len(row) - 1


def test_the_saved_acceptance_decides_too(target, opened_head, costs_folder, monkeypatch):
    pretend_machine(monkeypatch, CHEAP_TREES)
    opened_head.acceptance = Acceptance(shares=((0.01,),))
    answer(target, opened_head)
    assert opened_head.last_run.trials == []


@pytest.mark.parametrize("how", ["argument", "saved", "set"])
def test_an_explicit_tree_wins_and_nothing_is_measured(
    target, saved_head, costs_folder, monkeypatch, how
):
    batches = pretend_machine(monkeypatch, DEAR_TREES)
    tree = TreeConfig(depth=2, top_k=2, nodes=3)
    argument = {"argument": tree, "saved": "saved", "set": "auto"}[how]
    head = Eagle3DraftHead.from_pretrained(saved_head, tree=argument)
    if how == "set":
        head.tree = tree
    answer(target, head)
    assert batches == []
    assert head.last_run.trials[0] >= head.last_run.rounds - 1  # the last token needs no draft


@pytest.mark.parametrize(
    "tree",
    [
        TreeConfig("chain", depth=2, acceptance="rejection"),
        TreeConfig(depth=2, top_k=2, nodes=3, compile=True),
        TreeConfig("sequoia", parents=(0, 0), ranks=(0, 0)),
        TreeConfig("adaptive"),
    ],
)
def test_a_saved_tree_that_is_more_than_a_size_is_kept(target, tmp_path, tree):
    head = tiny_head(target)
    head.tree = tree
    head.save_pretrained(tmp_path)
    assert not Eagle3DraftHead.from_pretrained(tmp_path).tree_by_machine


def save_plan(folder, seconds, facts):
    Plan(costs_of(seconds, facts), Acceptance().shares, Calibration()).save(folder)


def test_a_plan_for_this_machine_wins(target, opened_head, saved_head, costs_folder, monkeypatch):
    batches = pretend_machine(monkeypatch, DEAR_TREES)
    save_plan(saved_head, CHEAP_TREES, as_assistant(opened_head).fingerprint(target))
    answer(target, opened_head)
    assert batches == []
    assert opened_head.last_run.trials[0] > 0


def test_a_plan_of_another_machine_is_not_used_and_that_is_said(
    target, opened_head, saved_head, costs_folder, monkeypatch, warnings_once
):
    batches = pretend_machine(monkeypatch, CHEAP_TREES)
    facts = as_assistant(opened_head).fingerprint(target) | {"device": "another"}
    save_plan(saved_head, DEAR_TREES, facts)
    answer(target, opened_head)
    assert batches == [1]
    assert "device 'another'" in warnings_once[0]


def test_a_damaged_plan_is_not_used_and_that_is_said(
    target, opened_head, saved_head, costs_folder, monkeypatch, warnings_once
):
    batches = pretend_machine(monkeypatch, CHEAP_TREES)
    (saved_head / "plan.json").write_text("{")
    answer(target, opened_head)
    assert batches == [1]
    assert "is no plan" in warnings_once[0]


@pytest.fixture
def losing_head(opened_head, costs_folder, monkeypatch):
    """A head that is sure of the wrong tokens, where trees are neither cheap nor dear."""
    pretend_machine(monkeypatch, (0.04, 0.05, 0.055, 0.06, 0.08))
    with torch.no_grad():
        weight = opened_head.lm_head.weight
        weight.copy_(3 * weight.roll(1, dims=0))
    return opened_head


def test_a_head_that_loses_is_not_asked_again_and_again(target, losing_head):
    rounds = []  # with drafts
    for _ in range(4):
        answer(target, losing_head, max_new_tokens=150)
        trials = losing_head.last_run.trials
        rounds.append(trials[0] if trials else 0)
    assert 5 < rounds[0] < 20  # of 149
    assert max(rounds[1:]) < 12


def test_what_was_lost_under_one_plan_does_not_count_under_another(target, losing_head):
    answer(target, losing_head, max_new_tokens=150)
    plan, _ = automatic.find_plan(target, as_assistant(losing_head), 1)
    tree = automatic.bounds(target, 15)
    assert automatic._policy(losing_head, (1, ()), plan, tree).has_paused
    losing_head.acceptance = Acceptance(shares=((0.9,),))
    other, _ = automatic.find_plan(target, as_assistant(losing_head), 1)
    assert not automatic._policy(losing_head, (1, ()), other, tree).has_paused


def test_a_machine_that_cannot_be_measured_drafts_with_the_saved_tree_and_says_so(
    target, opened_head, costs_folder, monkeypatch, warnings_once
):
    def run_out_of_memory(*args):
        raise torch.OutOfMemoryError("16 GB were asked for")

    monkeypatch.setattr(machine_costs, "measure_quickly", run_out_of_memory)
    assert torch.equal(answer(target, opened_head), answer(target, None))
    assert opened_head.last_run.trials[0] > 0
    expected = (
        "could not be measured (OutOfMemoryError: 16 GB were asked for); "
        "drafting with the tree saved with the head"
    )
    assert expected in warnings_once[0]


def test_another_word_for_a_tree_is_refused(saved_head):
    message = 'tree is \'fast\'; give "auto", "saved" or an eagle_hf.TreeConfig'
    with pytest.raises(ValueError, match=message):
        Eagle3DraftHead.from_pretrained(saved_head, tree="fast")


def test_the_line_is_visible_by_default():
    assert automatic.logger.isEnabledFor(logging.WARNING)
