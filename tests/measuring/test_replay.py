"""A replay is decoding: recorded rounds equal real ones, and the table's seconds are all that time it takes."""

import copy

import numpy
import pytest
import torch
from tiny import left_padded, tiny_target

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.measuring.replay import replay
from eagle_hf.measuring.traces import Trace, record
from eagle_hf.planning.calibration import Calibration, fit_calibration
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.policies import (
    AdaptivePolicy,
    FixedPolicy,
    PlainPolicy,
)
from eagle_hf.planning.sequoia import acceptance_vector


def table(token=1.0, more=0.05, draft=0.1):
    """One token costs `token`, each further one `more`, a draft forward `draft`, whatever batch and length."""
    target = tuple(token + more * (n - 1) for n in (1, 40))
    return CostTable(
        (1, 8),
        (10, 1000),
        (1, 40),
        (1, 8),
        ((target,) * 2,) * 2,
        (((draft, draft),) * 2,) * 2,
        (0.0, 0.0),
        {},
    )


@pytest.fixture(scope="module")
def answered(target):
    prompts, answers = [], []
    for seed in range(3):
        prompt = left_padded(target, [7], seed)["input_ids"]
        torch.manual_seed(seed)
        output = target.generate(
            prompt, max_new_tokens=60, do_sample=True, temperature=0.7, top_k=0, eos_token_id=None
        )
        prompts.append(prompt)
        answers.append(output[0, 7:])
    return prompts, answers


@pytest.fixture(scope="module")
def recorded(target, trained_head, answered):
    return *answered, record(target, trained_head, *answered, depth=4, width=5, children=9)


SHAPES = [
    TreeConfig(depth=4, top_k=5, nodes=12),
    TreeConfig("sequoia", parents=(0, 0, 0, 1, 1, 3), ranks=(0, 0, 1, 0, 1, 0)),
]
DRAFTERS = {
    "head": copy.deepcopy,
    "model": lambda head: WindowedDraft(tiny_target(layers=2, seed=3), window=None),
    "itself": lambda head: SelfSpeculation(2, 9),
    "itself, selecting": lambda head: SelfSpeculation(window=5, snapkv=3),
}


@pytest.mark.parametrize("tree", SHAPES, ids=lambda tree: tree.policy)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_replay_has_the_rounds_of_real_decoding(target, trained_head, answered, drafter, tree):
    (prompts, answers), assistant, rounds = answered, DRAFTERS[drafter](trained_head), 0
    assistant.tree = tree
    trace = record(target, assistant, prompts, answers, depth=4, width=5, children=9)
    assert assistant.tree == tree and trace.tokens.shape == (3 * 60, 1 + 3 * 5, 9)
    for seed, prompt in enumerate(prompts):
        torch.manual_seed(seed)
        output = target.generate(
            prompt,
            assistant_model=assistant,
            max_new_tokens=60,
            do_sample=True,
            temperature=0.7,
            top_k=0,
            eos_token_id=None,
        )
        assert torch.equal(output[0, 7:], answers[seed])
        rounds += assistant.last_run.rounds
    plan = FixedPolicy(
        tree.depth, tree.top_k, tree.nodes, tree.parents and (tree.parents, tree.ranks)
    )
    _, stats = replay(trace, plan, table(), batch=1, length=7, tokens=60)
    assert stats.rounds == rounds and stats.tokens == 3 * 59 and stats.tau > 1.05


def test_a_part_of_a_trace_is_the_trace_of_these_answers(target, trained_head, answered, recorded):
    prompts, answers, trace = recorded
    part, alone = (
        trace.of_answers([0, 2]),
        record(target, trained_head, prompts[2:], answers[2:], depth=4, width=5, children=9),
    )
    assert (
        len(part.text) == 2 * 60
        and (part.tokens[60:] == alone.tokens).all()
        and set(part.answers) == {0, 2}
    )


def test_seconds_are_the_tables(recorded):
    trace = recorded[2]
    speed, stats = replay(trace, PlainPolicy(), table(token=0.5), batch=1, length=10)
    assert speed == pytest.approx(2.0) and stats.tau == 1
    speed, stats = replay(trace, PlainPolicy(), table(token=0.5), batch=3, length=10)
    assert speed == pytest.approx(6.0)
    speed, stats = replay(
        trace, FixedPolicy(2, 1, 2), table(token=0.5, more=0.25, draft=0.125), batch=1, length=10
    )
    assert speed == pytest.approx(stats.tau / (0.5 + 2 * 0.25 + 2 * 0.125))


def test_a_trace_is_saved_and_replays_are_repeatable(recorded, tmp_path):
    trace = recorded[2]
    trace.save(tmp_path / "trace.npz")
    again, plan = (
        Trace.load(tmp_path / "trace.npz"),
        lambda: AdaptivePolicy(table(), numpy.full((4, 5), 0.15), Calibration(), 4, 5, 20),
    )
    first, second = (replay(again, plan(), table(), batch=2, length=10) for _ in range(2))
    assert first == second and (again.tokens == trace.tokens).all()
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no trace"):
        Trace.load(tmp_path / "other.npz")


def test_what_is_read_follows_the_costs_and_never_loses_to_plain_decoding(recorded):
    """Free verification: it reads much. Dear verification: it reads little. Hopeless: it does not draft at all."""
    trace, taus = recorded[2], []
    for more, draft in ((0.0, 0.01), (0.03, 0.02), (3.0, 2.0)):
        costs = table(more=more, draft=draft)
        adaptive, stats = replay(
            trace,
            AdaptivePolicy(costs, acceptance_vector(trace.counts(4)), Calibration(), 4, 5, 30),
            costs,
            batch=1,
            length=10,
        )
        plain, _ = replay(trace, PlainPolicy(), costs, batch=1, length=10)
        assert adaptive >= plain
        taus.append(stats.tau)
    assert taus[0] > taus[1] > taus[2] == 1


def test_counts_and_logs_say_what_decoding_accepts(recorded):
    trace, chain = recorded[2], FixedPolicy(4, 1, 4)
    trials, accepted = trace.counts(4)
    _, stats = replay(trace, chain, table(), batch=1, length=10)
    first, tried = accepted[0, 0] / trials[0], stats.accepted[0] / stats.trials[0]
    assert (
        trials[0] == 3 * 59
        and trials[1] <= accepted[0].sum()
        and first == pytest.approx(tried, abs=0.05)
    )
    assert len([1 for depth, *_ in trace.outcomes() if depth == 1]) == 9 * trials[0]
    logs = trace.outcomes(ranks=5)
    assert (
        sum(hit for depth, _, hit in logs if depth == 1) == accepted[0, :5].sum()
        and len([1 for depth, *_ in logs if depth == 1]) == 5 * trials[0]
    )


def test_calibration_finds_the_curve_that_drew_the_data():
    generator = numpy.random.default_rng(0)
    logs = []
    for depth, (slope, offset) in enumerate([(0.8, -0.5), (1.5, 0.3)], start=1):
        log_probs = numpy.log(generator.uniform(0.02, 0.98, 4000))
        chances = Calibration((slope,), (offset,))(torch.from_numpy(log_probs), 1).exp().numpy()
        logs += [
            (depth, p, bool(drawn))
            for p, drawn in zip(log_probs, generator.uniform(size=4000) < chances)
        ]
    found = fit_calibration(logs, depths=3)
    assert found.slopes == pytest.approx(
        (0.8, 1.5, 1.0), abs=0.12
    ) and found.offsets == pytest.approx((-0.5, 0.3, 0.0), abs=0.12)
    sure = [
        (1, float(p), bool(drawn))
        for p, drawn in zip(
            log_probs,
            generator.uniform(size=4000)
            < 1 / (1 + numpy.exp(-0.3 * (log_probs - numpy.log(-numpy.expm1(log_probs))) + 2)),
        )
    ]
    assert fit_calibration(sure, depths=1).slopes == pytest.approx(
        (0.3,), abs=0.12
    )  # a head that is far too sure of itself
    assert Calibration()(torch.tensor([0.3]).log(), 1).exp().item() == pytest.approx(0.3)
