"""Fixed trees, prepared level by level: the tree that the module draws."""

import torch

from eagle_hf.decoding.shapes import fixed_shape

PARENTS = (0, 0, 0, 1, 1, 2, 3)
RANKS = (0, 0, 1, 0, 1, 0, 0)
CPU = torch.device("cpu")


def test_the_drawn_tree_has_three_levels():
    shape = fixed_shape(PARENTS, RANKS, 3, CPU)
    assert len(shape.levels) == 3
    assert shape.parents.tolist() == [[0, 0, 0, 1, 1, 2, 3]]
    assert shape.depths.tolist() == [[0, 1, 1, 2, 2, 2, 3]]


def test_its_first_level_hangs_from_the_root():
    first, _, _ = fixed_shape(PARENTS, RANKS, 3, CPU).levels
    assert first.above == [0]
    assert first.first == 1
    assert first.width == 2
    assert first.parents.tolist() == [0, 0]
    assert first.ranks.tolist() == [0, 1]
    assert first.inner.tolist() == [1, 2]
    assert first.inner_parents.tolist() == [0, 0]
    assert first.seen.tolist() == [[True, False], [False, True]]  # nodes 1 and 2: themselves


def test_its_second_level_runs_only_the_node_with_a_child():
    _, second, _ = fixed_shape(PARENTS, RANKS, 3, CPU).levels
    assert second.above == [1, 2]
    assert second.first == 3
    assert second.width == 2
    assert second.parents.tolist() == [0, 0, 1]
    assert second.ranks.tolist() == [0, 1, 0]
    assert second.inner.tolist() == [3]
    assert second.inner_parents.tolist() == [0]
    assert second.seen.tolist() == [[True, False, True]]  # of 1, 2, 3: node 1 and itself


def test_its_last_level_runs_nothing():
    _, _, third = fixed_shape(PARENTS, RANKS, 3, CPU).levels
    assert third.above == [3]
    assert third.first == 6
    assert third.width == 1
    assert third.parents.tolist() == [0]
    assert third.ranks.tolist() == [0]
    assert third.inner is None
    assert third.inner_parents is None
    assert third.seen is None


def test_a_tree_is_cut_off_below_the_depth():
    shape = fixed_shape(PARENTS, RANKS, 2, CPU)
    assert shape.parents.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert shape.levels[-1].inner is None


def test_nodes_are_numbered_level_by_level_and_siblings_by_rank():
    # the same tree with its nodes listed in another order
    shape = fixed_shape((0, 0, 1, 2, 0, 4, 1), (0, 0, 0, 0, 1, 0, 1), 3, CPU)
    assert shape.parents.tolist() == [[0, 0, 0, 1, 1, 2, 3]]
    assert shape.levels[1].ranks.tolist() == [0, 1, 0]
