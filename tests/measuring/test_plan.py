"""Plans in generate: policies that choose by cost are lossless, and refuse what they were not measured for."""

import copy

import numpy
import pytest
import torch
from tiny import left_padded, tiny_target

from eagle_hf import Eagle3DraftHead, Plan, SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.decoding.assistants import EagleDrafter, as_assistant
from eagle_hf.measuring.costs import measure_costs
from eagle_hf.planning.calibration import Calibration
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.policies import AdaptivePolicy, FixedPolicy


def plan_for(target, assistant, more=0.01, draft=0.01):
    """Costs at which drafting pays, or does not."""
    cells, drafts = ((1.0, 1 + 39 * more),) * 2, ((draft, draft),) * 2
    costs = CostTable(
        (1, 8),
        (8, 500),
        (1, 40),
        (1, 8),
        (cells,) * 2,
        (drafts,) * 2,
        (0.0, 0.0),
        as_assistant(assistant).fingerprint(target),
    )
    shares = numpy.outer(0.8 ** numpy.arange(4), [0.3, 0.15, 0.1, 0.05])
    return Plan(costs, tuple(map(tuple, shares.tolist())), Calibration((0.9, 1.1), (-0.1, 0.1)))


def planned(target, head, policy, **costs):
    head = copy.deepcopy(head)
    head.tree, head.plan = (
        TreeConfig(policy, depth=4, top_k=4, nodes=20),
        plan_for(target, head, **costs),
    )
    return head


DRAFTERS = {
    "head": lambda head: head,
    "model": lambda head: WindowedDraft(tiny_target(layers=2, seed=3), sinks=2, window=9),
    "itself": lambda head: SelfSpeculation(2, 9),
}


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("policy", ["sequoia", "adaptive"])
@pytest.mark.parametrize(
    "settings", [dict(do_sample=False), dict(do_sample=True, top_k=0)], ids=["greedy", "sampled"]
)
def test_policies_that_choose_by_cost_are_lossless_and_repeatable(
    target, trained_head, drafter, policy, settings
):
    head = planned(target, DRAFTERS[drafter](trained_head), policy)
    for lengths in ([7], [9, 2, 14]):
        if len(lengths) > 1 and settings["do_sample"]:
            continue
        outputs, runs = [], []
        for assistant in (None, head, head):
            torch.manual_seed(0)
            outputs.append(
                target.generate(
                    **left_padded(target, lengths),
                    assistant_model=assistant,
                    max_new_tokens=150,
                    **settings,
                )
            )
            runs.append(
                head.last_run
                and (head.last_run.rounds, head.last_run.trials, head.last_run.accepted)
            )
        assert (
            torch.equal(*outputs[:2])
            and runs[1] == runs[2]
            and sum(head.last_run.trials) > head.last_run.rounds / 3
        )


@pytest.mark.parametrize("new", [1, 2, 3])
def test_very_few_tokens_leave_no_room_to_draft(target, trained_head, new):
    for policy in ("sequoia", "adaptive"):
        head, inputs = planned(target, trained_head, policy), left_padded(target, [7])
        plain = target.generate(**inputs, max_new_tokens=new, do_sample=False)
        assert torch.equal(
            plain,
            target.generate(**inputs, assistant_model=head, max_new_tokens=new, do_sample=False),
        )


def test_a_head_that_needs_a_plan_can_be_measured_for_one(target, trained_head):
    head = copy.deepcopy(trained_head)
    head.tree = TreeConfig("adaptive", depth=4, top_k=4, nodes=20)
    costs = measure_costs(
        target, head, batches=(1,), lengths=(16,), tokens=(1, 8), widths=(1, 4), repeats=1
    )
    assert costs.at(1, 16).overhead > 0 and head.tree.policy == "adaptive"


@pytest.mark.parametrize("drafter", ["model", "itself"])
def test_drafting_after_rounds_without_is_lossless(target, trained_head, drafter, monkeypatch):
    """Rows of a batch that end at different times, drafting every third round."""
    assistant, rounds = (
        planned(target, DRAFTERS[drafter](trained_head), "adaptive"),
        iter(range(1000)),
    )
    begin = AdaptivePolicy.begin
    monkeypatch.setattr(
        AdaptivePolicy, "begin", lambda self, *state: begin(self, *state) and next(rounds) % 3 == 0
    )
    inputs = left_padded(target, [9, 2, 14])
    outputs = [
        target.generate(**inputs, assistant_model=one, max_new_tokens=150, do_sample=False)
        for one in (None, assistant)
    ]
    assert (
        torch.equal(*outputs) and 0 < assistant.last_run.trials[0] < assistant.last_run.rounds / 2
    )


@pytest.mark.parametrize("drafter", ["model", "itself"])
def test_rejection_draws_from_other_drafters_and_in_planned_shapes(target, trained_head, drafter):
    """Where the drafter is the target itself, nothing is ever rejected; a planned shape is drawn as well."""
    assistant = {"model": WindowedDraft(target, window=None), "itself": SelfSpeculation(2, 400)}[
        drafter
    ]
    settings = dict(
        left_padded(target, [7]),
        assistant_model=assistant,
        max_new_tokens=60,
        do_sample=True,
        top_k=0,
        eos_token_id=None,
    )
    assistant.tree = TreeConfig("chain", depth=3, acceptance="rejection")
    target.generate(**settings)
    assert assistant.last_run.accepted == assistant.last_run.trials and assistant.last_run.tau > 3.5
    assistant.tree, assistant.plan = (
        TreeConfig("sequoia", depth=4, top_k=4, nodes=20, acceptance="rejection"),
        plan_for(target, assistant),
    )
    target.generate(**settings)
    assert assistant.last_run.accepted == assistant.last_run.trials and assistant.last_run.tau > 2


def test_dear_drafts_are_not_drafted(target, trained_head):
    head = planned(target, trained_head, "adaptive", more=3.0, draft=3.0)
    target.generate(
        **left_padded(target, [7]), assistant_model=head, max_new_tokens=60, eos_token_id=None
    )
    assert (
        head.last_run.rounds == 59
        and not head.last_run.trials
        and head.last_run.seconds["head"] == 0
    )


@pytest.mark.parametrize("window", [None, (2, 9)])
def test_rounds_without_drafts_are_caught_up_with(target, trained_head, window, monkeypatch):
    """After any number of plain rounds the drafts are those of a head that drafted all along."""
    head, draft_tree, kept = copy.deepcopy(trained_head), EagleDrafter.draft, {}
    head.tree, head.window = TreeConfig("chain", depth=2), window

    def watched(self, root, max_depth, lengths):
        draft = draft_tree(self, root, max_depth, lengths)
        tree = draft.tree
        if tree.tokens.shape[1] == 3:
            kept.update(
                {(row, length): tree.tokens[row].tolist() for row, length in enumerate(lengths)}
            )
        return draft

    monkeypatch.setattr(EagleDrafter, "draft", watched)
    found = []
    for pause in (1, 9):  # draft every round, or every ninth
        rounds = iter(range(1000))
        monkeypatch.setattr(
            FixedPolicy,
            "begin",
            lambda self, lengths, depth: next(rounds) % pause == 0 and depth > 0,
        )
        target.generate(
            **left_padded(target, [7, 4]),
            assistant_model=head,
            max_new_tokens=100,
            do_sample=False,
            eos_token_id=None,
        )
        found.append(dict(kept))
        kept.clear()
    always, sometimes = found
    shared = set(always) & set(sometimes)
    assert len(shared) > 8 and all(always[place] == sometimes[place] for place in shared)


def test_a_plan_lies_beside_the_head_and_holds_for_its_machine_alone(
    target, trained_head, tmp_path
):
    planned(target, trained_head, "adaptive").save_pretrained(tmp_path)
    head = Eagle3DraftHead.from_pretrained(tmp_path, dtype=torch.float64)
    target.generate(**left_padded(target, [7]), assistant_model=head, max_new_tokens=9)
    plan = as_assistant(head).find_plan()
    assert plan == Plan.load(tmp_path)
    assert head.last_run.rounds
    facts = plan.costs.facts
    for name, value in (
        ("dtype", "bfloat16"),
        ("drafter_dtype", "bfloat16"),
        ("device", "another"),
        ("target_fingerprint", "0"),
    ):
        kept = facts[name]
        facts[name] = value
        with pytest.raises(ValueError, match=f"measured with {name} '{value}'"):
            target.generate(**left_padded(target, [7]), assistant_model=head, max_new_tokens=9)
        facts[name] = kept
    assistant = SelfSpeculation(2, 9)
    assistant.tree = TreeConfig("adaptive")
    with pytest.raises(ValueError, match="'adaptive' needs a plan and there is none; make one"):
        target.generate(**left_padded(target, [7]), assistant_model=assistant, max_new_tokens=9)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="is no plan"):
        target.generate(
            **left_padded(target, [7]),
            assistant_model=Eagle3DraftHead.from_pretrained(tmp_path, dtype=torch.float64),
            max_new_tokens=9,
        )
