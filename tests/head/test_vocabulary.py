"""The draft vocabulary and its map."""

import pytest
import torch

from eagle_hf.head.vocabulary import (
    choose_draft_vocabulary,
    coverage,
    draft_to_target_ids,
    vocabulary_buffers,
)

COUNTS = torch.tensor([0, 5, 0, 9, 1, 0, 5])


def test_the_most_frequent_tokens_ascending():
    assert choose_draft_vocabulary(COUNTS, 3).tolist() == [1, 3, 6]


def test_offsets_lead_back_to_target_ids():
    d2t, t2d = vocabulary_buffers(torch.tensor([1, 3, 6]), 7)
    assert d2t.tolist() == [1, 2, 4]
    assert draft_to_target_ids(d2t).tolist() == [1, 3, 6]
    assert t2d.tolist() == [False, True, False, True, False, False, True]


def test_more_tokens_than_were_seen_are_refused_or_filled_by_rank():
    with pytest.raises(
        ValueError, match="draft_vocab_size is 5 but the responses hold 4 distinct tokens"
    ):
        choose_draft_vocabulary(COUNTS, 5)
    assert choose_draft_vocabulary(COUNTS, 5, fill_by_rank=True).tolist() == [0, 1, 3, 4, 6]
    with pytest.raises(ValueError, match="has 7 tokens"):
        choose_draft_vocabulary(COUNTS, 8, fill_by_rank=True)


def test_coverage_is_the_share_of_the_text():
    assert coverage(COUNTS, torch.tensor([1, 3])) == 14 / 20
    with pytest.raises(ValueError, match="no response tokens"):
        coverage(torch.zeros(3), torch.tensor([1]))


@pytest.mark.parametrize(
    "ids, what", [([1, 9], "0..6"), ([3, 1], "ascending"), ([1, 1], "ascending")]
)
def test_impossible_maps_are_refused(ids, what):
    with pytest.raises(ValueError, match=what):
        vocabulary_buffers(torch.tensor(ids), 7)
