"""Rows that advance together: a round ends where one row's tree does."""

from types import SimpleNamespace

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from eagle_hf.compat import AssistedCall
from eagle_hf.decoding.lockstep import LockstepVerifier
from eagle_hf.decoding.sequences import Sequences
from eagle_hf.decoding.tree import Tree

A, B, C, D, E, F, X = range(3, 10)


def chains(*rows):
    """A tree that is a chain in every row: the root and its drafts."""
    tokens = torch.tensor(rows)
    numbers = torch.arange(tokens.shape[1]).expand_as(tokens)
    return Tree(tokens, (numbers - 1).clamp(min=0), numbers.clone())


def verifier_at(roots):
    """A verifier of rows of two tokens, `roots` the newest, that end at a length of 20."""
    ids = torch.tensor([[1, root] for root in roots])
    criteria = StoppingCriteriaList([MaxLengthCriteria(20)])
    call = AssistedCall(ids, LogitsProcessorList(), criteria, GenerationConfig(max_length=20))
    return LockstepVerifier(
        call, Sequences(ids, 20), SimpleNamespace(sampler=None, draft_to_target=None)
    )


def logits_for(*rows):
    """Logits [R, N, 12] by which the target chooses these tokens."""
    return torch.nn.functional.one_hot(torch.tensor(rows), 12).float()


def test_a_round_ends_for_all_rows_where_one_chooses_no_draft():
    verifier = verifier_at([1, 1])
    tree = chains([1, A, B, C], [1, D, E, F])
    first, second = verifier.verdicts(tree, logits_for([A, B, C, X], [D, X, X, X]))
    assert first.path == second.path == [0, 1]
    assert first.tokens == [A, B]
    assert second.tokens == [D, X]
    assert (first.trials, first.accepted) == (2, 2)  # b was a good draft, though its child is lost
    assert (second.trials, second.accepted) == (2, 1)
    assert verifier.sequences.ids[:, 2:5].tolist() == [[A, B, 0], [D, X, 0]]


def test_rows_that_agree_with_all_drafts_get_a_bonus_token():
    verifier = verifier_at([1, 1])
    tree = chains([1, A, B], [1, D, E])
    first, second = verifier.verdicts(tree, logits_for([A, B, X], [D, E, X]))
    assert first.path == second.path == [0, 1, 2]
    assert first.tokens == [A, B, X]
    assert second.tokens == [D, E, X]


def test_chains_take_the_place_of_a_rows_drafts():
    tree = Tree(
        torch.tensor([[1, A, B, C], [2, D, E, F]]),
        torch.tensor([[0, 0, 0, 1]]).expand(2, -1),
        torch.tensor([[0, 1, 1, 2]]).expand(2, -1),
    )
    other = tree.with_chains([1], 0)
    assert other.tokens.tolist() == [[1, A, B, C], [2, 0, 0, 0]]
    assert other.parents.tolist() == [[0, 0, 0, 1], [0, 0, 1, 2]]
    assert other.depths.tolist() == [[0, 1, 1, 2], [0, 1, 2, 3]]
    assert torch.equal(other.ancestors[1], torch.ones(4, 4, dtype=torch.bool).tril())
    assert tree.tokens[1].tolist() == [2, D, E, F]
    assert tree.parents[1].tolist() == [0, 0, 0, 1]
