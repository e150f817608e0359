"""The tree by machine: measured once, kept, said, chosen by; an explicit tree and a saved plan win."""

import json
import logging
from copy import deepcopy
from weakref import WeakKeyDictionary

import pytest
import torch
from tiny import left_padded, tiny_head
from transformers.utils.logging import get_logger

from eagle_hf import Eagle3DraftHead, Plan, TreeConfig
from eagle_hf.decoding.assistants import as_assistant
from eagle_hf.head.configuration import Acceptance
from eagle_hf.measuring import automatic, machine_costs
from eagle_hf.measuring import costs as measured_costs
from eagle_hf.measuring.acceptance import measure_acceptance, save_acceptance
from eagle_hf.planning.calibration import Calibration
from eagle_hf.planning.cost import CostTable

FAST_TREES = (0.04, 0.041, 0.042, 0.044, 0.048)  # seconds of 1, 2, 4, 8, 16 tokens
SLOW_TREES = (0.04, 0.08, 0.16, 0.32, 0.64)


@pytest.fixture
def saved(target, trained_head, tmp_path):
    """The folder of a trained head."""
    trained_head.save_pretrained(tmp_path / "head")
    return tmp_path / "head"


@pytest.fixture
def head(saved):
    return Eagle3DraftHead.from_pretrained(saved).eval()


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where measurements are kept during this test."""
    monkeypatch.setattr(machine_costs, "measurements", lambda: tmp_path / "costs")
    monkeypatch.setattr(machine_costs, "_known", WeakKeyDictionary())
    return tmp_path / "costs"


@pytest.fixture
def said(monkeypatch):
    """The lines on the logger."""
    lines = []
    monkeypatch.setattr(machine_costs.logger, "warning", lines.append)
    return lines


def costs(seconds, facts=None, batch=1):
    return CostTable(
        (batch,),
        (64,),
        (1, 2, 4, 8, 16),
        (1, 8),
        ((seconds,),),
        (((0.003, 0.004),),),
        (0.003,),
        facts or {},
    )


def measuring(monkeypatch, seconds):
    """Let the machine be one where tokens cost this; the list gets an entry whenever it is measured."""
    calls = []

    def measure(target, head, batch, facts):
        calls.append(batch)
        return costs(seconds, facts, batch)

    monkeypatch.setattr(machine_costs, "measure_quickly", measure)
    return calls


def answer(target, assistant, lengths=(7,), **settings):
    settings = dict(max_new_tokens=40, do_sample=False, eos_token_id=None) | settings
    return target.generate(
        **left_padded(target, list(lengths)), assistant_model=assistant, **settings
    )


@pytest.mark.parametrize("lengths", [(7,), (4, 9, 6)])
def test_output_equals_the_target_alone(target, head, folder, lengths):
    assert torch.equal(answer(target, head, lengths), answer(target, None, lengths))


def test_sampled_output_equals_the_target_alone_though_measuring_draws(target, head, folder):
    outputs = []
    for assistant in (None, head):
        torch.manual_seed(3)
        outputs.append(answer(target, assistant, do_sample=True))
    assert torch.equal(*outputs)


def test_where_trees_are_cheap_it_drafts(target, head, folder, monkeypatch):
    measuring(monkeypatch, FAST_TREES)
    answer(target, head)
    assert head.last_run.trials[0] > 0


def test_where_trees_are_dear_it_decodes_plainly(target, head, folder, monkeypatch, said):
    measuring(monkeypatch, SLOW_TREES)
    answer(target, head)
    assert head.last_run.trials == []
    assert head.last_run.tau == 1.0
    assert "no draft pays, so this is plain decoding" in said[0]


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
    target, head, folder, monkeypatch, said, lengths, settings
):
    measuring(monkeypatch, SLOW_TREES)
    outputs = []
    for assistant in (None, head):
        torch.manual_seed(3)
        outputs.append(answer(target, assistant, lengths, **settings))
    plain, fast = (getattr(output, "sequences", output) for output in outputs)
    assert torch.equal(plain, fast)
    assert type(outputs[0]) is type(outputs[1])
    assert head.last_run.rounds == head.last_run.tokens
    generated = plain[:, max(lengths) :]
    if "eos_token_id" not in settings:
        assert head.last_run.tokens == generated[:, 1:].numel()
    else:
        ends = [
            next((i for i, token in enumerate(row) if token in (5, 9)), len(row) - 1)
            for row in generated.tolist()
        ]
        assert head.last_run.tokens == sum(ends)


def test_the_saved_acceptance_decides_too(target, head, folder, monkeypatch):
    measuring(monkeypatch, FAST_TREES)
    head.acceptance = Acceptance(shares=((0.01,),))
    answer(target, head)
    assert head.last_run.trials == []


def test_it_measures_once_a_target_and_says_so_once(target, head, folder, monkeypatch, said):
    calls = measuring(monkeypatch, FAST_TREES)
    for _ in range(3):
        answer(target, head)
    assert calls == [1]
    assert len(said) == 1
    assert "1, 2, 4, 8, 16 tokens cost 40, 41, 42, 44, 48 ms" in said[0]
    assert str(folder) in said[0]
    assert 'tree="saved"' in said[0]


def test_batches_are_measured_by_powers_of_two(target, head, folder, monkeypatch, said):
    calls = measuring(monkeypatch, FAST_TREES)
    for lengths in ((5, 6, 7), (5, 6, 7, 8), (5, 6)):
        answer(target, head, lengths)
    assert calls == [4, 2]


def test_another_process_reads_what_was_kept(target, head, folder, monkeypatch, said):
    calls = measuring(monkeypatch, FAST_TREES)
    answer(target, head)
    machine_costs._known.clear()
    answer(target, head)
    assert calls == [1]
    assert len(said) == 1


@pytest.mark.parametrize(
    "change", ["device", "cpu_features", "threads", "torch", "transformers", "dtype", "weights"]
)
def test_what_was_measured_of_something_else_is_measured_again(
    target, head, folder, monkeypatch, said, change
):
    calls = measuring(monkeypatch, FAST_TREES)
    answer(target, head)
    machine_costs._known.clear()
    [file] = folder.glob("*.json")
    table = json.loads(file.read_text())
    table["facts"][change] = "another"
    file.write_text(json.dumps(table))
    answer(target, head)
    assert calls == [1, 1]


def test_a_damaged_file_is_measured_again(target, head, folder, monkeypatch, said):
    calls = measuring(monkeypatch, FAST_TREES)
    answer(target, head)
    machine_costs._known.clear()
    [file] = folder.glob("*.json")
    file.write_text(file.read_text()[:50])
    answer(target, head)
    assert calls == [1, 1]
    assert CostTable.load(file).tokens


def test_a_folder_that_cannot_be_written_is_said_and_the_call_goes_on(
    target, head, folder, monkeypatch, said
):
    folder.write_text("a file where the folder should be")
    calls = measuring(monkeypatch, FAST_TREES)
    assert torch.equal(answer(target, head), answer(target, None))
    answer(target, head)
    assert calls == [1]
    assert "cannot be written" in said[0]
    assert "EAGLE_HF_CACHE" in said[0]


def test_measuring_for_real_takes_its_time_and_leaves_the_random_state(target, head):
    before = torch.get_rng_state()
    table = measured_costs.measure_quickly(target, head, 2, {"a": 1})
    assert torch.equal(before, torch.get_rng_state())
    assert table.batches == (2,)
    assert table.tokens == (1, 2, 4, 8, 16)
    assert table.facts == {"a": 1}


def test_a_slow_target_is_timed_with_one_and_eight_tokens_alone(target, head, monkeypatch):
    monkeypatch.setattr(measured_costs, "QUICK_SECONDS", 0.0)
    assert measured_costs.measure_quickly(target, head, 1, {}).tokens == (1, 8)


@pytest.mark.parametrize("how", ["argument", "saved", "set"])
def test_an_explicit_tree_wins_and_nothing_is_measured(target, saved, folder, monkeypatch, how):
    calls, tree = measuring(monkeypatch, SLOW_TREES), TreeConfig(depth=2, top_k=2, nodes=3)
    head = Eagle3DraftHead.from_pretrained(
        saved, tree={"argument": tree, "saved": "saved", "set": "auto"}[how]
    )
    if how == "set":
        head.tree = tree
    answer(target, head)
    assert calls == []
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


def test_a_plan_for_this_machine_wins(target, head, saved, folder, monkeypatch):
    calls = measuring(monkeypatch, SLOW_TREES)
    facts = as_assistant(head).fingerprint(target)
    Plan(costs(FAST_TREES, facts), Acceptance().shares, Calibration()).save(saved)
    answer(target, head)
    assert calls == []
    assert head.last_run.trials[0] > 0


def test_a_plan_of_another_machine_is_not_used_and_that_is_said(
    target, head, saved, folder, monkeypatch
):
    calls, told = measuring(monkeypatch, FAST_TREES), []
    monkeypatch.setattr(get_logger(automatic.__name__), "warning_once", told.append)
    facts = as_assistant(head).fingerprint(target) | {"device": "another"}
    Plan(costs(SLOW_TREES, facts), Acceptance().shares, Calibration()).save(saved)
    answer(target, head)
    assert calls == [1]
    assert "device 'another'" in told[0]


def test_a_damaged_plan_is_not_used_and_that_is_said(target, head, saved, folder, monkeypatch):
    calls, told = measuring(monkeypatch, FAST_TREES), []
    monkeypatch.setattr(get_logger(automatic.__name__), "warning_once", told.append)
    (saved / "plan.json").write_text("{")
    answer(target, head)
    assert calls == [1]
    assert "is no plan" in told[0]


def test_a_head_that_loses_is_not_asked_again_and_again(target, saved, folder, monkeypatch):
    measuring(monkeypatch, (0.04, 0.05, 0.055, 0.06, 0.08))
    head = Eagle3DraftHead.from_pretrained(saved).eval()
    with torch.no_grad():
        head.lm_head.weight.copy_(
            3 * head.lm_head.weight.roll(1, dims=0)
        )  # sure of the wrong tokens
    rounds = []
    for _ in range(4):
        answer(target, head, max_new_tokens=150)
        rounds.append(head.last_run.trials[0] if head.last_run.trials else 0)
    assert 5 < rounds[0] < 20  # of 149
    assert max(rounds[1:]) < 12


def test_what_was_lost_under_one_plan_does_not_count_under_another(
    target, saved, folder, monkeypatch
):
    measuring(monkeypatch, (0.04, 0.05, 0.055, 0.06, 0.08))
    head = Eagle3DraftHead.from_pretrained(saved).eval()
    with torch.no_grad():
        head.lm_head.weight.copy_(3 * head.lm_head.weight.roll(1, dims=0))
    answer(target, head, max_new_tokens=150)
    plan, _ = automatic.find_plan(target, as_assistant(head), 1)
    tree = automatic.bounds(target, 15)
    assert automatic._policy(head, 1, plan, tree).has_paused
    head.acceptance = Acceptance(shares=((0.9,),))
    other, _ = automatic.find_plan(target, as_assistant(head), 1)
    assert not automatic._policy(head, 1, other, tree).has_paused


def test_a_machine_that_cannot_be_measured_drafts_with_the_saved_tree_and_says_so(
    target, head, folder, monkeypatch
):
    def out_of_memory(*args):
        raise torch.OutOfMemoryError("16 GB were asked for")

    told = []
    monkeypatch.setattr(machine_costs, "measure_quickly", out_of_memory)
    monkeypatch.setattr(get_logger(automatic.__name__), "warning_once", told.append)
    assert torch.equal(answer(target, head), answer(target, None))
    assert head.last_run.trials[0] > 0
    assert (
        "could not be measured (OutOfMemoryError: 16 GB were asked for); drafting with the tree saved with the head"
        in told[0]
    )


def test_acceptance_is_measured_along_the_targets_answers(target, trained_head):
    starts = [torch.tensor([[3, 5 + i, 6]]) for i in range(4)]
    trained = measure_acceptance(target, trained_head, starts)
    wrong = deepcopy(trained_head)
    with torch.no_grad():
        wrong.lm_head.weight.neg_()
    assert sum(trained.shares[0]) > 1.5 * sum(measure_acceptance(target, wrong, starts).shares[0])
    assert all(sum(row) <= 1 for row in trained.shares)


def test_without_an_answer_of_two_tokens_nothing_is_said_of_acceptance(target, trained_head, saved):
    assert (
        measure_acceptance(target, trained_head, [torch.tensor([[3, 5, 6]])], max_new_tokens=1)
        is None
    )
    before = (saved / "config.json").read_text()
    save_acceptance(saved, None)
    assert (saved / "config.json").read_text() == before


def test_acceptance_is_added_to_a_saved_head(saved):
    before = json.loads((saved / "config.json").read_text())
    save_acceptance(saved, Acceptance(shares=((0.5, 0.25),)))
    after = json.loads((saved / "config.json").read_text())
    assert Eagle3DraftHead.from_pretrained(saved).acceptance == Acceptance(shares=((0.5, 0.25),))
    assert after["eagle_hf"].pop("acceptance")
    assert after == before


def test_acceptance_is_saved_with_the_head(target, tmp_path):
    head, acceptance = (
        tiny_head(target),
        Acceptance(shares=((0.5, 0.25), (0.4, 0.2)), slopes=(1.5,), offsets=(0.1,)),
    )
    assert head.acceptance is None
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


def test_another_word_for_a_tree_is_refused(saved):
    with pytest.raises(
        ValueError, match='tree is \'fast\'; give "auto", "saved" or an eagle_hf.TreeConfig'
    ):
        Eagle3DraftHead.from_pretrained(saved, tree="fast")


def test_the_line_is_visible_by_default():
    assert automatic.logger.isEnabledFor(logging.WARNING)
