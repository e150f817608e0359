"""Static trees: their shape, their reach, how they are saved, and the shares they are made for."""

import json

import numpy
import pytest
from shares import random_shares

from eagle_hf.planning.sequoia import StaticTree, acceptance_vector, best_tree, draw

# Two children, the first with a chain of two below it.
FORK = StaticTree((0, 0, 0, 1, 3), (0, 0, 1, 0, 0))
FORK_SHARES = [[0.5, 0.2], [0.4, 0.1], [0.3, 0.0]]


def test_shape_of_a_fork_by_hand():
    assert FORK.size == 4
    assert FORK.depth == 3
    assert FORK.depths == (0, 1, 1, 2, 3)
    assert FORK.widths == (1, 1, 1)
    assert FORK.children == ((1, 2), (3,), (), (4,), ())


def test_reach_of_a_fork_by_hand():
    assert FORK.reach(FORK_SHARES).tolist() == pytest.approx([1, 0.5, 0.2, 0.2, 0.06])
    assert FORK.expected_tokens(FORK_SHARES) == pytest.approx(1.96)


def test_children_come_by_rank_in_whatever_order_they_are_listed():
    assert StaticTree((0, 0, 0), (0, 1, 0)).children == ((2, 1), (), ())


def test_shares_of_fewer_ranks_than_the_tree_has_are_refused():
    with pytest.raises(ValueError, match="rank 1 but shares has 1 ranks"):
        FORK.expected_tokens([[0.5]])


def test_a_drawing_shows_every_node_and_its_probability():
    assert draw(FORK, FORK_SHARES).splitlines() == [
        "root: 4 nodes, depth 3, 1.96 tokens per round",
        "├─ 0  0.500",
        "│  └─ 0  0.200",
        "│     └─ 0  0.060",
        "└─ 1  0.200",
    ]


def test_counts_become_shares():
    shares = acceptance_vector(([10, 4, 0], [[5, 2], [1, 0], [0, 0]]))
    assert shares.tolist() == [[0.5, 0.2], [0.25, 0.0], [0.25, 0.0]]


def test_a_depth_never_tried_takes_the_deepest_tried_row_above():
    shares = acceptance_vector(([10, 0, 5, 0, 0], [[5], [0], [1], [0], [0]]))
    assert shares[:, 0].tolist() == [0.5, 0.5, 0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    ("trials", "accepted", "message"),
    [
        ([4], [[3, 2]], "5 children were accepted in 4 trials"),
        ([4, 0], [[2, 1], [1, 0]], "at depth 1"),
        ([0, 4], [[0, 0], [1, 0]], "root was never tried"),
        ([4], [[2, -1]], "not negative"),
        ([-1], [[0, 0]], "0 children were accepted in -1"),
        ([numpy.nan], [[0, 0]], "finite"),
        ([4, 4], [[2, 1]], "shapes"),
        ([4], [2], "shapes"),
        ([], numpy.zeros((0, 2)), "shapes"),
    ],
)
def test_impossible_counts_are_refused(trials, accepted, message):
    with pytest.raises(ValueError, match=message):
        acceptance_vector((trials, accepted))


def test_trees_survive_json():
    for tree in (FORK, StaticTree(), best_tree(random_shares(8), 20, 5)):
        assert StaticTree.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


@pytest.mark.parametrize(
    ("parents", "ranks", "message"),
    [
        ([0, 2, 0], [0, 0, 0], "parent comes before its children"),
        ([0, 1], [0, 0], "parent comes before its children"),
        ([0, -1], [0, 0], "parent comes before its children"),
        ([0, 0, 0], [0, 0, 0], "two children of rank 0"),
        ([0, 0, 0], [0, 0, 2], r"ranks \[0, 2\]"),
        ([0, 0], [0, -1], r"ranks \[-1\]"),
        ([0, 0], [0], "2 parents and 1 ranks"),
        ([], [], "node 0 must be the root"),
        ([0, 0], [1, 0], "node 0 must be the root"),
        ([0, 0.0], [0, 0], "list of integers"),
        ([0, 0], "01", "list of integers"),
    ],
)
def test_parents_and_ranks_that_make_no_tree_are_refused(parents, ranks, message):
    with pytest.raises(ValueError, match=message):
        StaticTree.from_dict({"parents": parents, "ranks": ranks})


def test_a_tree_with_other_keys_is_refused():
    with pytest.raises(ValueError, match="keys parents and ranks"):
        StaticTree.from_dict({"parents": [0]})
