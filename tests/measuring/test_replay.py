"""A replay is decoding: recorded rounds equal real ones, and take a table's seconds."""

import copy

import numpy
import pytest
import torch
from drafting import given_tree
from tiny import left_padded, tiny_target

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.measuring.replay import replay
from eagle_hf.measuring.traces import Trace, record
from eagle_hf.planning.calibration import Calibration, fit_calibration
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.policies import AdaptivePolicy, FixedPolicy, PlainPolicy
from eagle_hf.planning.sequoia import acceptance_vector

SAMPLING = dict(max_new_tokens=60, do_sample=True, temperature=0.7, top_k=0, eos_token_id=None)
RECORDED = dict(depth=4, width=5, children=9)


def table(token=1.0, more=0.05, draft=0.1):
    """The same costs for every batch and length.

    Args:
        token: seconds of one token.
        more: of each further one.
        draft: of a draft forward.
    """
    target = (token, token + 39 * more)
    return CostTable(
        batches=(1, 8),
        lengths=(10, 1000),
        tokens=(1, 40),
        widths=(1, 8),
        target=((target, target), (target, target)),
        draft=(((draft, draft), (draft, draft)), ((draft, draft), (draft, draft))),
        overhead=(0.0, 0.0),
        facts={},
    )


@pytest.fixture(scope="module")
def prompts(target):
    return [left_padded(target, [7], seed)["input_ids"] for seed in range(3)]


def generate(target, prompt, seed, assistant=None):
    """60 sampled tokens."""
    torch.manual_seed(seed)
    return target.generate(prompt, assistant_model=assistant, **SAMPLING)[0, 7:]


@pytest.fixture(scope="module")
def answers(target, prompts):
    return [generate(target, prompt, seed) for seed, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def trace(target, trained_head, prompts, answers):
    """What the trained head proposes."""
    return record(target, trained_head, prompts, answers, **RECORDED)


TREES = [
    TreeConfig(depth=4, top_k=5, nodes=12),
    TreeConfig("sequoia", parents=(0, 0, 0, 1, 1, 3), ranks=(0, 0, 1, 0, 1, 0)),
]


def assistant_of(name, head):
    if name == "model":
        return WindowedDraft(tiny_target(layers=2, seed=3), window=None)
    if name == "itself":
        return SelfSpeculation(2, 9)
    if name == "itself, selecting":
        return SelfSpeculation(window=5, snapkv=3)
    return copy.deepcopy(head)


@pytest.mark.parametrize("tree", TREES, ids=["dynamic", "sequoia"])
@pytest.mark.parametrize("name", ["head", "model", "itself", "itself, selecting"])
def test_a_replay_has_the_rounds_of_real_decoding(
    target, trained_head, prompts, answers, name, tree
):
    assistant = assistant_of(name, trained_head)
    rounds = 0
    with given_tree(assistant, tree):
        trace = record(target, assistant, prompts, answers, **RECORDED)
        assert assistant.tree == tree
        for seed, prompt in enumerate(prompts):
            answer = generate(target, prompt, seed, assistant)
            assert torch.equal(answer, answers[seed])
            rounds += assistant.last_run.rounds
    assert trace.tokens.shape == (3 * 60, 1 + 3 * 5, 9)
    shape = tree.parents and (tree.parents, tree.ranks)
    policy = FixedPolicy(tree.depth, tree.top_k, tree.nodes, shape)
    _, stats = replay(trace, policy, table(), batch=1, length=7, tokens=60)
    assert stats.rounds == rounds
    assert stats.tokens == 3 * 59
    assert stats.tau > 1.05


def test_a_part_of_a_trace_is_the_trace_of_these_answers(
    target, trained_head, prompts, answers, trace
):
    part = trace.of_answers([0, 2])
    alone = record(target, trained_head, prompts[2:], answers[2:], **RECORDED)
    assert len(part.text) == 2 * 60
    assert (part.tokens[60:] == alone.tokens).all()
    assert set(part.answers) == {0, 2}


def test_seconds_are_the_tables(trace):
    half_a_second = table(token=0.5)
    speed, stats = replay(trace, PlainPolicy(), half_a_second, batch=1, length=10)
    assert speed == pytest.approx(2.0)
    assert stats.tau == 1
    speed, _ = replay(trace, PlainPolicy(), half_a_second, batch=3, length=10)
    assert speed == pytest.approx(6.0)
    costs = table(token=0.5, more=0.25, draft=0.125)
    speed, stats = replay(trace, FixedPolicy(2, 1, 2), costs, batch=1, length=10)
    assert speed == pytest.approx(stats.tau / (0.5 + 2 * 0.25 + 2 * 0.125))


def test_a_trace_is_saved_and_replays_are_repeatable(trace, tmp_path):
    trace.save(tmp_path / "trace.npz")
    loaded = Trace.load(tmp_path / "trace.npz")
    assert (loaded.tokens == trace.tokens).all()
    found = []
    for _ in range(2):
        shares = numpy.full((4, 5), 0.15)
        policy = AdaptivePolicy(table(), shares, Calibration(), 4, 5, 20)
        found.append(replay(loaded, policy, table(), batch=2, length=10))
    first, second = found
    assert first == second


def test_another_file_is_no_trace(tmp_path):
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no trace"):
        Trace.load(tmp_path / "other.npz")


def test_what_is_read_follows_the_costs_and_never_loses_to_plain_decoding(trace):
    """Where verification is free it reads much, where it is dear little, where hopeless nothing."""
    shares = acceptance_vector(trace.counts(4))
    taus = []
    for more, draft in ((0.0, 0.01), (0.03, 0.02), (3.0, 2.0)):
        costs = table(more=more, draft=draft)
        policy = AdaptivePolicy(costs, shares, Calibration(), 4, 5, 30)
        adaptive, stats = replay(trace, policy, costs, batch=1, length=10)
        plain, _ = replay(trace, PlainPolicy(), costs, batch=1, length=10)
        assert adaptive >= plain
        taus.append(stats.tau)
    free, dear, hopeless = taus
    assert free > dear > hopeless == 1


def test_counts_say_what_decoding_accepts(trace):
    trials, accepted = trace.counts(4)
    assert trials[0] == 3 * 59
    assert trials[1] <= accepted[0].sum()
    _, stats = replay(trace, FixedPolicy(4, 1, 4), table(), batch=1, length=10)
    replayed = stats.accepted[0] / stats.trials[0]
    assert accepted[0, 0] / trials[0] == pytest.approx(replayed, abs=0.05)


def first_drafts(trace, ranks=None):
    """Whether each draft of depth 1 was accepted."""
    return [is_accepted for depth, _, is_accepted in trace.outcomes(ranks) if depth == 1]


def test_outcomes_are_those_of_every_draft_or_of_the_best(trace):
    trials, accepted = trace.counts(4)
    assert len(first_drafts(trace)) == 9 * trials[0]
    best = first_drafts(trace, ranks=5)
    assert len(best) == 5 * trials[0]
    assert sum(best) == accepted[0, :5].sum()


def drawn_outcomes(generator, depth, log_probs, chances):
    """(depth, log-probability, accepted) of drafts that are accepted with these chances."""
    accepted = generator.uniform(size=len(log_probs)) < chances
    return [(depth, *outcome) for outcome in zip(log_probs, accepted.tolist(), strict=True)]


def test_calibration_finds_the_curve_that_drew_the_data():
    generator = numpy.random.default_rng(0)
    outcomes = []
    for depth, (slope, offset) in enumerate([(0.8, -0.5), (1.5, 0.3)], start=1):
        log_probs = numpy.log(generator.uniform(0.02, 0.98, 4000))
        chances = Calibration((slope,), (offset,))(torch.from_numpy(log_probs), 1).exp().numpy()
        outcomes += drawn_outcomes(generator, depth, log_probs, chances)
    found = fit_calibration(outcomes, depths=3)
    assert found.slopes == pytest.approx((0.8, 1.5, 1.0), abs=0.12)
    assert found.offsets == pytest.approx((-0.5, 0.3, 0.0), abs=0.12)

    # a head that is far too sure of itself
    log_odds = log_probs - numpy.log(-numpy.expm1(log_probs))
    chances = 1 / (1 + numpy.exp(-0.3 * log_odds + 2))
    outcomes = drawn_outcomes(generator, 1, log_probs, chances)
    assert fit_calibration(outcomes, depths=1).slopes == pytest.approx((0.3,), abs=0.12)


def test_an_empty_calibration_changes_nothing():
    assert Calibration()(torch.tensor([0.3]).log(), 1).exp().item() == pytest.approx(0.3)
