"""Rejection leaves the target's distribution as it is.

Every draw and every outcome is enumerated, on four tokens.
"""

import itertools

import pytest
import torch

from eagle_hf.decoding import verify
from eagle_hf.decoding.verify import acceptance, verify_drawn

V = 4


def distributions(seed, zeros=False):
    """(target_probs [V], draft_probs [V]); with zeros, each never chooses one of the tokens."""
    generator = torch.Generator().manual_seed(seed)
    target, draft = torch.rand(2, V, generator=generator, dtype=torch.float64)
    if zeros:
        target[seed % V] = 0
        draft[(seed + 1) % V] = 0
    return target / target.sum(), draft / draft.sum()


def drawn(draft, width):
    """(probability, tokens) of every ordered draw of `width` tokens without replacement."""
    for tokens in itertools.permutations(range(V), width):
        chance = 1.0
        left = draft.clone()
        for token in tokens:
            mass = left.sum()
            chance *= float(left[token] / mass) if mass > 0 else 0.0
            left[token] = 0
        if chance > 0:
            yield chance, tokens


def emitted(target, draft, width):
    """The distribution of the emitted token, over all draws and all outcomes of acceptance."""
    result = torch.zeros(V, dtype=torch.float64)

    def follow(chance, target_probs, draft_probs, tokens):
        if not tokens:
            result.add_(chance * target_probs)
            return
        first, *others = tokens
        accepted = verify.acceptance(target_probs, draft_probs, first)
        result[first] += chance * accepted
        if accepted < 1:
            residual, rest = verify.reject(target_probs, draft_probs, first)
            follow(chance * (1 - accepted), residual, rest, others)

    for chance, tokens in drawn(draft, width):
        follow(chance, target, draft, tokens)
    return result


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("zeros", [False, True])
def test_the_emitted_token_follows_the_target(width, zeros):
    for seed in range(20):
        target, draft = distributions(seed, zeros)
        assert torch.allclose(emitted(target, draft, width), target, atol=1e-12)


def accept_by_target_alone(target, draft, token):
    return min(1.0, float(target[token]))


def reject_without_residual(target, draft, token):
    rest = draft.clone()
    rest[token] = 0
    return target, rest / rest.sum()


def reject_with_replacement(target, draft, token):
    residual = (target - draft).clamp(min=0)
    return residual / residual.sum(), draft


@pytest.mark.parametrize(
    "name, broken",
    [
        ("acceptance", accept_by_target_alone),
        ("reject", reject_without_residual),
        ("reject", reject_with_replacement),
    ],
)
def test_a_broken_rule_is_noticed(name, broken, monkeypatch):
    monkeypatch.setattr(verify, name, broken)
    worst = 0.0
    for seed in range(20):
        target, draft = distributions(seed)
        error = (emitted(target, draft, 2) - target).abs().max()
        worst = max(worst, float(error))
    assert worst > 0.02


class Walk:
    """verify_drawn on a tree, with the same distributions [V] after every node.

    Args:
        target, draft: the distributions.
        children: of every node, (token, node) in the order of their draws.
        numbers: what `uniform` draws.
        choose: the token that the target draws from probabilities [V].

    Attributes:
        verdict: what it returns.
        emitted: the tokens.
    """

    def __init__(self, target, draft, children, numbers, choose):
        self.emitted = []
        self._target = target
        self._draft = draft
        self._numbers = iter(numbers)
        self.verdict = verify_drawn(
            children,
            self._target_probs,
            self._draft_probs,
            self._emit,
            self._next_number,
            choose,
        )

    def _target_probs(self, node):
        return self._target

    def _draft_probs(self, node):
        return self._draft

    def _emit(self, token):
        self.emitted.append(token)
        return False  # it does not end the text

    def _next_number(self):
        return next(self._numbers)


def test_the_walk_uses_these_rules_in_the_order_of_the_draws():
    target = torch.tensor([0.25, 0.35, 0.1, 0.3])
    draft = torch.tensor([0.2, 0.2, 0.5, 0.1])
    children = [[(2, 1), (0, 2)], [], [(1, 3)], []]  # tokens 2 and 0 of the root, then 1
    assert acceptance(target, draft, 2) == pytest.approx(0.2)

    def choose_three(probs):
        return 3

    first = Walk(target, draft, children, [0.19], choose_three)
    assert first.verdict.path == [0, 1]
    assert first.emitted == [2, 3]
    assert (first.verdict.accepted, first.verdict.trials) == (1, 1)

    # left of target: .125 .375 0 .5; of draft: .4 .4 0 .2; so token 0 is accepted with .3125
    second = Walk(target, draft, children, [0.21, 0.31, 0.99], choose_three)
    assert second.verdict.path == [0, 2, 3]
    assert second.emitted == [0, 1, 3]
    assert (second.verdict.accepted, second.verdict.trials) == (2, 2)

    neither = Walk(target, draft, children, [0.21, 0.32], choose_three)
    assert neither.verdict.path == [0]
    assert neither.emitted == [3]
    assert (neither.verdict.accepted, neither.verdict.trials) == (0, 1)


def choose_likeliest(probs):
    return int(probs.argmax())


def test_a_place_that_could_not_be_drawn_is_passed_over():
    target = torch.tensor([0.5, 0.5, 0.0, 0.0])
    draft = torch.tensor([1.0, 0.0, 0.0, 0.0])
    walk = Walk(target, draft, [[(1, 1)], []], [0.0], choose_likeliest)
    assert walk.verdict.tokens == [0]
    assert walk.verdict.accepted == 0
