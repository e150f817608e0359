"""Rejection leaves the target's distribution as it is: every draw and every outcome enumerated, on four tokens."""

import itertools

import pytest
import torch

from eagle_hf.decoding import verify
from eagle_hf.decoding.verify import acceptance, verify_drawn

V = 4


def distributions(seed, zeros=False):
    generator = torch.Generator().manual_seed(seed)
    target, draft = torch.rand(2, V, generator=generator, dtype=torch.float64)
    if zeros:  # tokens that one of them never chooses
        target[seed % V], draft[(seed + 1) % V] = 0, 0
    return target / target.sum(), draft / draft.sum()


def drawn(draft, width):
    """(probability, tokens) of every ordered draw of `width` tokens without replacement."""
    for tokens in itertools.permutations(range(V), width):
        chance, left = 1.0, draft.clone()
        for token in tokens:
            chance *= float(left[token] / left.sum()) if left.sum() > 0 else 0.0
            left[token] = 0
        if chance > 0:
            yield chance, tokens


def emitted(target, draft, width):
    """The distribution of the emitted token, over all draws and all outcomes of every acceptance."""
    result = torch.zeros(V, dtype=torch.float64)

    def follow(chance, wanted, offered, tokens):
        if not tokens:
            result.add_(chance * wanted)
            return
        kept = verify.acceptance(wanted, offered, tokens[0])
        result[tokens[0]] += chance * kept
        if kept < 1:
            follow(chance * (1 - kept), *verify.reject(wanted, offered, tokens[0]), tokens[1:])

    for chance, tokens in drawn(draft, width):
        follow(chance, target, draft, tokens)
    return result


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("zeros", [False, True])
def test_the_emitted_token_follows_the_target(width, zeros):
    for seed in range(20):
        target, draft = distributions(seed, zeros)
        assert torch.allclose(emitted(target, draft, width), target, atol=1e-12)


BROKEN = {
    "acceptance": lambda target, draft, token: min(1.0, float(target[token])),
    "no residual": lambda target, draft, token: (target, verify_rest(draft, token)),
    "with replacement": lambda target, draft, token: (
        (target - draft).clamp(min=0) / (target - draft).clamp(min=0).sum(),
        draft,
    ),
}


def verify_rest(draft, token):
    rest = draft.clone()
    rest[token] = 0
    return rest / rest.sum()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_noticed(name, monkeypatch):
    monkeypatch.setattr(verify, "acceptance" if name == "acceptance" else "reject", BROKEN[name])
    worst = max(
        float((emitted(target, draft, 2) - target).abs().max())
        for target, draft in map(distributions, range(20))
    )
    assert worst > 0.02


def test_the_walk_uses_these_rules_in_the_order_of_the_draws():
    target, draft = torch.tensor([0.25, 0.35, 0.1, 0.3]), torch.tensor([0.2, 0.2, 0.5, 0.1])
    children, tokens = [[(2, 1), (0, 2)], [], [(1, 3)], []], []

    def walk(*numbers):
        tokens.clear()
        step = iter(numbers)
        return verify_drawn(
            children,
            lambda node: target,
            lambda node: draft,
            lambda token: bool(tokens.append(token)),
            lambda: next(step),
            lambda probs: 3,
        )

    assert acceptance(target, draft, 2) == pytest.approx(0.2)
    first = walk(0.19)
    assert first.path == [0, 1] and tokens == [2, 3] and (first.accepted, first.trials) == (1, 1)
    second = walk(
        0.21, 0.31, 0.99
    )  # left of p: .125 .375 0 .5; of q: .4 .4 0 .2; so token 0 is kept with .3125
    assert (
        second.path == [0, 2, 3]
        and tokens == [0, 1, 3]
        and (second.accepted, second.trials) == (2, 2)
    )
    neither = walk(0.21, 0.32)
    assert neither.path == [0] and tokens == [3] and (neither.accepted, neither.trials) == (0, 1)


def test_a_place_that_could_not_be_drawn_is_passed_over():
    target, draft = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    verdict = verify_drawn(
        [[(1, 1)], []],
        lambda node: target,
        lambda node: draft,
        lambda token: True,
        lambda: 0.0,
        lambda probs: int(probs.argmax()),
    )
    assert verdict.tokens == [0] and verdict.accepted == 0
