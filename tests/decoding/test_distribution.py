"""Sampling in batches follows the target's distribution, with every rule of acceptance."""

import copy
from collections import Counter

import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded, quickly_trained, tiny_head, tiny_target
from transformers import LogitsProcessorList
from user_callbacks import Recorder

from eagle_hf import TreeConfig, WindowedDraft
from eagle_hf.decoding import verifier, verify

BATCH = 16  # rows of the same prompt
RUNS = 60
SAMPLING = dict(do_sample=True, temperature=0.8, top_k=4, max_new_tokens=3, min_new_tokens=3)
LEAST_EXPECTED = 5  # counts; smaller cells are pooled


def chi_square_p(observed, expected, total):
    """P value of counts against expected shares; small cells are pooled."""
    cells = []  # (observed count, expected count)
    rest_observed = 0.0
    rest_expected = 0.0
    for key, share in expected.items():
        if share * total >= LEAST_EXPECTED:
            cells.append((observed[key], share * total))
        else:
            rest_observed += observed[key]
            rest_expected += share * total
    if rest_expected > 0:
        cells.append((rest_observed, rest_expected))
    statistic = 0.0
    for count, expectation in cells:
        statistic += (count - expectation) ** 2 / expectation
    half_freedom = torch.tensor((len(cells) - 1) / 2.0)
    return float(torch.special.gammaincc(half_freedom, torch.tensor(statistic / 2.0)))


def test_batched_sampling_on_a_larger_vocabulary_follows_the_distribution(target, trained_head):
    prompt = [3, 4, 5, 6]
    batch = {
        "input_ids": torch.tensor([prompt] * BATCH),
        "attention_mask": torch.ones(BATCH, 4, dtype=torch.long),
    }
    settings = dict(do_sample=True, top_k=0, max_new_tokens=3, eos_token_id=None)
    counts = Counter()
    torch.manual_seed(0)
    for _ in range(RUNS):
        out = target.generate(**batch, assistant_model=trained_head, **settings)
        counts.update(map(tuple, out[:, 4:6].tolist()))

    # the probability of every pair of tokens
    first = target(torch.tensor([prompt])).logits[0, -1].softmax(-1)  # [V]
    longer = torch.tensor([prompt + [token] for token in range(31)])
    second = target(longer).logits[:, -1].softmax(-1)  # [V, V]
    joint = first[:, None] * second
    expected = {}
    for a, row in enumerate(joint.tolist()):
        for b, share in enumerate(row):
            expected[a, b] = share
    assert chi_square_p(counts, expected, BATCH * RUNS) > 1e-3


@pytest.fixture(scope="module")
def tiny_target_of_six():
    return tiny_target(vocab_size=6, initializer_range=0.15)


@pytest.fixture(scope="module")
def shared_head(tiny_target_of_six):
    head = tiny_head(tiny_target_of_six, draft_vocab_size=5)
    return quickly_trained(tiny_target_of_six, head, steps=60)


@pytest.fixture
def tiny_head_of_five(shared_head):
    """A head of the test's own, which may get another tree."""
    head = copy.deepcopy(shared_head)
    head.tree = TreeConfig(depth=2, top_k=3, nodes=6)
    return head


def sampled_from(target, tokens):
    """The distribution [V] after these tokens under SAMPLING."""
    logits = target(torch.tensor([tokens])).logits[0, -1].float().detach()
    logits[2] = -torch.inf  # no EOS before min_new_tokens
    logits = logits / 0.8
    logits[logits < logits.topk(4).values[-1]] = -torch.inf
    return logits.softmax(-1)


def enumerated(target, prompt):
    """Probability of every three-token continuation under SAMPLING, by enumeration."""
    chances = {(): 1.0}
    for _ in range(3):
        longer = {}
        for tokens, chance in chances.items():
            probs = sampled_from(target, prompt + list(tokens))
            for token, prob in enumerate(probs.tolist()):
                if prob > 0:
                    longer[(*tokens, token)] = chance * prob
        chances = longer
    return chances


def sampled_p(target, assistant, pairs=BATCH, runs=RUNS, **settings):
    """P value of what is sampled in a batch, every second row of which has another prompt."""
    prompt = [3, 4, 5]
    batch = {
        "input_ids": torch.tensor([[0, 0] + prompt, [3, 5, 4, 4, 3]] * pairs),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]] * pairs),
    }
    counts = Counter()
    torch.manual_seed(0)
    for _ in range(runs):
        out = target.generate(**batch, assistant_model=assistant, **SAMPLING, **settings)
        counts.update(map(tuple, out[::2, 5:].tolist()))
    return chi_square_p(counts, enumerated(target, prompt), pairs * runs)


def test_batched_sampling_follows_the_targets_distribution(tiny_target_of_six, tiny_head_of_five):
    p = sampled_p(tiny_target_of_six, tiny_head_of_five)
    assert tiny_head_of_five.last_run.accepted[0] > 0
    assert p > 1e-3


def choose_again(children, choose, emit):
    """A biased rule: where the target's draw is no draft, it draws again and takes a draft."""

    def choose_twice(node):
        first = choose(node)
        second = choose(node)
        if first not in children[node] and second in children[node]:
            return second
        return first

    return verify.verify(children, choose_twice, emit)


def test_a_biased_rule_fails_the_distribution_test(
    tiny_target_of_six, tiny_head_of_five, monkeypatch
):
    monkeypatch.setattr(verifier, "verify", choose_again)
    assert sampled_p(tiny_target_of_six, tiny_head_of_five) < 1e-6


# Rejection sampling

CHAIN = TreeConfig("chain", depth=2, acceptance="rejection")
SEQUOIA = TreeConfig(
    "sequoia",
    parents=(0, 0, 0, 0, 1, 1, 2),
    ranks=(0, 0, 1, 2, 0, 1, 0),
    acceptance="rejection",
)
REJECTION = [pytest.param(CHAIN, id="chain"), pytest.param(SEQUOIA, id="sequoia")]


@pytest.mark.parametrize("tree", REJECTION)
def test_rejection_follows_the_targets_distribution(tiny_target_of_six, tiny_head_of_five, tree):
    head = tiny_head_of_five
    head.tree = tree
    assert sampled_p(tiny_target_of_six, head) > 1e-3
    assert head.last_run.accepted[0] > head.last_run.trials[0] / 4


@pytest.mark.parametrize("tree", REJECTION)
def test_rejection_with_a_draft_model_of_fewer_tokens_follows_the_distribution(
    tiny_target_of_six, tree
):
    small = copy.deepcopy(tiny_target_of_six)
    small.resize_token_embeddings(5)
    assistant = WindowedDraft(small, window=None, vocab_size=5)
    assistant.tree = tree
    assert sampled_p(tiny_target_of_six, assistant) > 1e-3
    assert assistant.last_run.accepted[0] > assistant.last_run.trials[0] / 2


def reject_nothing(target_probs, draft_probs, token):
    """A wrong rule: a refused token leaves both distributions as they are."""
    return target_probs, draft_probs


def test_a_broken_rejection_fails_the_distribution_test(
    tiny_target_of_six, tiny_head_of_five, monkeypatch
):
    tiny_head_of_five.tree = SEQUOIA
    monkeypatch.setattr(verify, "reject", reject_nothing)
    assert sampled_p(tiny_target_of_six, tiny_head_of_five) < 1e-6


def in_lockstep():
    """Settings that change no score, but let rows advance together: few, so that drafts count."""
    return dict(pairs=2, runs=240, logits_processor=LogitsProcessorList([Recorder()]))


@pytest.mark.parametrize(
    "tree",
    [pytest.param(CHAIN, id="chain", marks=pytest.mark.slow), pytest.param(SEQUOIA, id="sequoia")],
)
def test_rejection_in_lockstep_follows_the_targets_distribution(
    tiny_target_of_six, tiny_head_of_five, tree
):
    head = tiny_head_of_five
    head.tree = tree
    assert sampled_p(tiny_target_of_six, head, **in_lockstep()) > 1e-3
    assert head.last_run.accepted[0] > 0


def test_a_broken_rejection_fails_in_lockstep_too(
    tiny_target_of_six, tiny_head_of_five, monkeypatch
):
    tiny_head_of_five.tree = SEQUOIA
    monkeypatch.setattr(verify, "reject", reject_nothing)
    assert sampled_p(tiny_target_of_six, tiny_head_of_five, **in_lockstep()) < 1e-6


def test_siblings_are_tried_in_the_order_of_their_draws(tiny_target_of_six, tiny_head_of_five):
    """A shape may list them in any order."""
    tiny_head_of_five.tree = TreeConfig(
        "sequoia", parents=(0, 0, 0, 0), ranks=(0, 2, 0, 1), acceptance="rejection"
    )
    assert sampled_p(tiny_target_of_six, tiny_head_of_five) > 1e-3


def test_a_broken_head_is_never_believed(target, trained_head):
    """NaN everywhere: rejection emits what the target may choose, and nothing else."""
    head = copy.deepcopy(trained_head)
    head.tree = TreeConfig("chain", depth=3, acceptance="rejection")
    with torch.no_grad():
        head.lm_head.weight.fill_(torch.nan)
    ids = target.generate(
        **left_padded(target, [7]),
        assistant_model=head,
        max_new_tokens=30,
        do_sample=True,
        top_k=2,
        eos_token_id=None,
    )
    logits = target(ids).logits[0, 6:-1]
    for token, before in zip(ids[0, 7:], logits, strict=True):
        assert token in before.topk(2).indices
    assert sum(head.last_run.accepted) == 0


def test_rejection_repeats_under_a_seed_and_is_plain_when_greedy(target, trained_head):
    head = copy.deepcopy(trained_head)
    head.tree = TreeConfig("chain", depth=3, acceptance="rejection")
    settings = dict(left_padded(target, [7]), max_new_tokens=60, eos_token_id=None)
    sampled = []
    for _ in range(2):
        torch.manual_seed(1)
        sampled.append(target.generate(**settings, assistant_model=head, do_sample=True, top_k=0))
    assert torch.equal(*sampled)
    plain, fast = plain_and_drafted(target, head, settings, do_sample=False)
    assert torch.equal(plain, fast)
    with pytest.raises(ValueError, match="shape does not follow the draws; policy is 'dynamic'"):
        TreeConfig(acceptance="rejection")
