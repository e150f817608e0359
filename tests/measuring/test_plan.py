"""Plans in generate: policies that choose by cost are lossless.

They refuse what they were not measured for.
"""

import copy

import numpy
import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded, tiny_target

from eagle_hf import Eagle3DraftHead, Plan, SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.decoding.assistants import EagleDrafter, as_assistant
from eagle_hf.measuring.costs import measure_costs
from eagle_hf.planning.calibration import Calibration
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.policies import AdaptivePolicy, FixedPolicy


def plan_for(target, assistant, more=0.01, draft=0.01):
    """A plan for costs at which drafting pays, or does not.

    Args:
        target, assistant: what it holds for.
        more: seconds of each further token; the first costs one second.
        draft: seconds of a draft forward.
    """
    cells = ((1.0, 1 + 39 * more),) * 2
    drafts = ((draft, draft),) * 2
    costs = CostTable(
        batches=(1, 8),
        lengths=(8, 500),
        tokens=(1, 40),
        widths=(1, 8),
        target=(cells, cells),
        draft=(drafts, drafts),
        overhead=(0.0, 0.0),
        facts=as_assistant(assistant).fingerprint(target),
    )
    shares = numpy.outer(0.8 ** numpy.arange(4), [0.3, 0.15, 0.1, 0.05])
    return Plan(costs, tuple(map(tuple, shares.tolist())), Calibration((0.9, 1.1), (-0.1, 0.1)))


def planned(target, assistant, policy, **costs):
    """A copy of the assistant that drafts by a plan."""
    assistant = copy.deepcopy(assistant)
    assistant.tree = TreeConfig(policy, depth=4, top_k=4, nodes=20)
    assistant.plan = plan_for(target, assistant, **costs)
    return assistant


def assistant_of(name, head):
    if name == "model":
        return WindowedDraft(tiny_target(layers=2, seed=3), sinks=2, window=9)
    if name == "itself":
        return SelfSpeculation(2, 9)
    return head


def counts(assistant):
    run = assistant.last_run
    return run.rounds, run.trials, run.accepted


@pytest.mark.parametrize("name", ["head", "model", "itself"])
@pytest.mark.parametrize("policy", ["sequoia", "adaptive"])
@pytest.mark.parametrize(
    "lengths, settings",
    [
        pytest.param([7], dict(do_sample=False), id="greedy"),
        pytest.param([9, 2, 14], dict(do_sample=False), id="greedy batch"),
        pytest.param([7], dict(do_sample=True, top_k=0), id="sampled"),
    ],
)
def test_policies_that_choose_by_cost_are_lossless_and_repeatable(
    target, trained_head, name, policy, lengths, settings
):
    assistant = planned(target, assistant_of(name, trained_head), policy)
    inputs = left_padded(target, lengths) | dict(max_new_tokens=150)
    plain, fast = plain_and_drafted(target, assistant, inputs, **settings)
    assert torch.equal(plain, fast)
    first = counts(assistant)
    torch.manual_seed(0)
    target.generate(**inputs, assistant_model=assistant, **settings)
    assert counts(assistant) == first
    assert sum(assistant.last_run.trials) > assistant.last_run.rounds / 3


@pytest.mark.parametrize("new", [1, 2, 3])
def test_very_few_tokens_leave_no_room_to_draft(target, trained_head, new):
    for policy in ("sequoia", "adaptive"):
        head = planned(target, trained_head, policy)
        settings = dict(max_new_tokens=new, do_sample=False)
        plain, fast = plain_and_drafted(target, head, left_padded(target, [7]), **settings)
        assert torch.equal(plain, fast)


def test_a_head_that_needs_a_plan_can_be_measured_for_one(target, trained_head):
    head = copy.deepcopy(trained_head)
    head.tree = TreeConfig("adaptive", depth=4, top_k=4, nodes=20)
    grids = dict(batches=(1,), lengths=(16,), tokens=(1, 8), widths=(1, 4))
    costs = measure_costs(target, head, **grids, repeats=1)
    assert costs.at(1, 16).overhead > 0
    assert head.tree.policy == "adaptive"


@pytest.mark.parametrize("name", ["model", "itself"])
def test_drafting_after_rounds_without_is_lossless(target, trained_head, name, monkeypatch):
    """Rows of a batch that end at different times, drafting every third round."""
    assistant = planned(target, assistant_of(name, trained_head), "adaptive")
    rounds = iter(range(1000))
    original = AdaptivePolicy.begin

    def begin_every_third(policy, lengths, depth):
        if not original(policy, lengths, depth):
            return False
        return next(rounds) % 3 == 0

    monkeypatch.setattr(AdaptivePolicy, "begin", begin_every_third)
    settings = dict(max_new_tokens=150, do_sample=False)
    plain, fast = plain_and_drafted(target, assistant, left_padded(target, [9, 2, 14]), **settings)
    assert torch.equal(plain, fast)
    assert 0 < assistant.last_run.trials[0] < assistant.last_run.rounds / 2


@pytest.mark.parametrize("name", ["model", "itself"])
def test_rejection_draws_from_other_drafters_and_in_planned_shapes(target, name):
    """Where the drafter is the target itself, nothing is ever rejected."""
    assistant = {
        "model": WindowedDraft(target, window=None),
        "itself": SelfSpeculation(2, 400),
    }[name]
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
    assert assistant.last_run.accepted == assistant.last_run.trials
    assert assistant.last_run.tau > 3.5

    # a planned shape is drawn as well
    assistant.tree = TreeConfig("sequoia", depth=4, top_k=4, nodes=20, acceptance="rejection")
    assistant.plan = plan_for(target, assistant)
    target.generate(**settings)
    assert assistant.last_run.accepted == assistant.last_run.trials
    assert assistant.last_run.tau > 2


def test_dear_drafts_are_not_drafted(target, trained_head):
    head = planned(target, trained_head, "adaptive", more=3.0, draft=3.0)
    settings = dict(assistant_model=head, max_new_tokens=60, eos_token_id=None)
    target.generate(**left_padded(target, [7]), **settings)
    assert head.last_run.rounds == 59
    assert not head.last_run.trials
    assert head.last_run.seconds["head"] == 0


def drafts_of_every(pause, target, head):
    """The chains of 2 that are drafted in every round, or in every `pause`-th.

    Returns:
        Tokens by (row of the batch, length of its text).
    """
    drafts = {}
    rounds = iter(range(1000))
    original = EagleDrafter.draft

    def begin_after_pause(policy, lengths, depth):
        return next(rounds) % pause == 0 and depth > 0

    def watched(drafter, root, max_depth, lengths):
        draft = original(drafter, root, max_depth, lengths)
        tokens = draft.tree.tokens.tolist()
        if draft.tree.size == 3:
            drafts.update(zip(enumerate(lengths), tokens, strict=True))
        return draft

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FixedPolicy, "begin", begin_after_pause)
        patch.setattr(EagleDrafter, "draft", watched)
        target.generate(
            **left_padded(target, [7, 4]),
            assistant_model=head,
            max_new_tokens=100,
            do_sample=False,
            eos_token_id=None,
        )
    return drafts


@pytest.mark.parametrize("window", [None, (2, 9)])
def test_rounds_without_drafts_are_caught_up_with(target, trained_head, window):
    """After any number of plain rounds the drafts are those of a head that drafted all along."""
    head = copy.deepcopy(trained_head)
    head.tree = TreeConfig("chain", depth=2)
    head.window = window
    always = drafts_of_every(1, target, head)
    sometimes = drafts_of_every(9, target, head)
    shared = set(always) & set(sometimes)
    assert len(shared) > 8
    for key in shared:
        assert always[key] == sometimes[key]


OTHER_FACTS = {
    "dtype": "bfloat16",
    "drafter_dtype": "bfloat16",
    "device": "another",
    "target_fingerprint": "0",
}


def test_a_plan_lies_beside_the_head_and_holds_for_its_machine_alone(
    target, trained_head, tmp_path
):
    planned(target, trained_head, "adaptive").save_pretrained(tmp_path)
    head = Eagle3DraftHead.from_pretrained(tmp_path, dtype=torch.float64)
    settings = left_padded(target, [7]) | dict(max_new_tokens=9)
    target.generate(**settings, assistant_model=head)
    plan = as_assistant(head).find_plan()
    assert plan == Plan.load(tmp_path)
    assert head.last_run.rounds
    facts = plan.costs.facts
    for name, value in OTHER_FACTS.items():
        own = facts[name]
        facts[name] = value
        with pytest.raises(ValueError, match=f"measured with {name} '{value}'"):
            target.generate(**settings, assistant_model=head)
        facts[name] = own


def test_a_policy_by_cost_without_a_plan_is_refused(target):
    assistant = SelfSpeculation(2, 9)
    assistant.tree = TreeConfig("adaptive")
    settings = left_padded(target, [7]) | dict(max_new_tokens=9)
    with pytest.raises(ValueError, match="'adaptive' needs a plan and there is none; make one"):
        target.generate(**settings, assistant_model=assistant)


def test_a_damaged_plan_beside_the_head_is_refused(target, trained_head, tmp_path):
    planned(target, trained_head, "adaptive").save_pretrained(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    head = Eagle3DraftHead.from_pretrained(tmp_path, dtype=torch.float64)
    settings = left_padded(target, [7]) | dict(max_new_tokens=9)
    with pytest.raises(ValueError, match="is no plan"):
        target.generate(**settings, assistant_model=head)
