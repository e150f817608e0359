"""The target's cache: a commit keeps one branch of a tree, and buffers grow where they lie."""

import pytest
import torch

from eagle_hf.decoding.caches.target import TargetCache


def cache_of(values, **settings):
    """A cache of one layer, whose keys and values are the numbers [B, S]."""
    cache = TargetCache(**settings)
    append(cache, values)
    return cache


def append(cache, values):
    states = torch.as_tensor(values)[:, None, :, None].float()  # [B, h, S, D], h and D are 1
    cache.update(states, states.clone(), 0)


def keys_of(cache, row=0):
    return cache.layers[0].keys[row, 0, :, 0].tolist()


def test_commit_as_drawn_in_the_module():
    a, b, c, d, e = 1, 2, 3, 4, 5
    n0, n1, n2, n3 = 10, 11, 12, 13
    unused = 0
    cache = cache_of(
        [
            [a, b, c, d, unused, n0, n1, n2, n3],
            [a, b, c, d, e, n0, n1, n2, n3],  # the longer row, behind which the tree begins
        ]
    )
    cache.commit(base=5, ends=[4, 5], paths=[[0, 2, 3], [0]])
    assert keys_of(cache, 0) == [a, b, c, d, n0, n2, n3]
    assert keys_of(cache, 1)[:6] == [a, b, c, d, e, n0]
    assert cache.get_seq_length() == 7
    assert torch.equal(cache.layers[0].values, cache.layers[0].keys)


def test_commit_keeps_one_branch_of_every_row():
    # five committed slots, then a tree of four nodes
    cache = cache_of(torch.arange(2 * 9.0).view(2, 9))
    cache.commit(base=5, ends=[5, 3], paths=[[0, 2, 3], [0]])
    assert keys_of(cache, 0) == [0, 1, 2, 3, 4, 5, 7, 8]
    assert keys_of(cache, 1)[:4] == [9, 10, 11, 14]
    assert cache.get_seq_length() == 8


def test_a_finished_row_keeps_its_cache():
    cache = cache_of(torch.arange(2 * 6.0).view(2, 6))
    cache.commit(base=4, ends=[4, 2], paths=[[0, 1], []])
    assert keys_of(cache, 0) == [0, 1, 2, 3, 4, 5]
    assert keys_of(cache, 1)[:2] == [6, 7]


@pytest.mark.parametrize("limit, slots", [(300, 300), (None, 556)])
def test_a_growing_cache_doubles_up_to_what_a_call_may_need(limit, slots):
    values = torch.arange(290.0)[None]
    cache = cache_of(values[:, :150], limit=limit)  # room for 128 more
    append(cache, values[:, 150:])
    assert cache.layers[0]._keys.shape[2] == slots
    assert keys_of(cache) == values[0].tolist()


def test_a_cache_forgets_its_newest_slots():
    cache = cache_of([[0, 1, 2, 3, 4, 5, 6]])
    cache.crop(-3)
    append(cache, [[9]])
    assert keys_of(cache) == [0, 1, 2, 3, 9]
    assert cache.get_seq_length() == 5
