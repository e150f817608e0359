"""The best static tree, against every tree there is, the walk it models, and measured costs."""

from functools import cache
from typing import Any

import numpy
import pytest
from shares import random_shares

from eagle_hf.planning.sequoia import (
    StaticTree,
    best_tree,
    best_tree_for,
    solve,
)

# An ordered forest: a tuple of trees side by side, each of which is the forest of its children.
Forest = tuple["Forest", ...]


@cache
def forests(nodes: int, levels: int, places: int, width: int) -> list[Forest]:
    """All ordered forests of so many nodes and levels.

    Args:
        nodes: How many nodes each has.
        levels: The most levels that it may have.
        places: The most trees that may stand side by side.
        width: The most children of a node.
    """
    if nodes == 0:
        return [()]
    if levels == 0 or places == 0:
        return []
    found = []
    for size in range(1, nodes + 1):  # of the first tree
        others = forests(nodes - size, levels, places - 1, width)
        for first in forests(size - 1, levels - 1, width, width):
            for rest in others:
                found.append((first, *rest))
    return found


def gain(forest: Forest, shares: numpy.ndarray, depth: int = 0) -> float:
    """The expected number of accepted nodes of a forest whose trees hang from one node."""
    total = 0.0
    for rank, below in enumerate(forest):
        total += shares[depth][rank] * (1 + gain(below, shares, depth + 1))
    return total


def likeliest_nodes(shares: Any, nodes: int, depth: int) -> float:
    """The expected tokens of a tree that is grown greedily.

    It always adds the open node of the highest path product, as ranks come.
    """
    total = 1.0
    # (probability, depth of the parent, rank, probability of the parent)
    opened = [(shares[0][0], 0, 0, 1.0)]
    for _ in range(nodes):
        chosen = max(opened)
        opened.remove(chosen)
        probability, level, rank, above = chosen
        total += probability
        if rank + 1 < len(shares[level]):
            opened.append((above * shares[level][rank + 1], level, rank + 1, above))
        if level + 1 < depth:
            opened.append((probability * shares[level + 1][0], level + 1, 0, probability))
    return total


def test_the_enumeration_is_complete():
    catalan_numbers = [1, 1, 2, 5, 14, 42, 132, 429]
    assert [len(forests(nodes, 7, 7, 7)) for nodes in range(8)] == catalan_numbers


@pytest.mark.parametrize("width", [1, 2, 3, 7])
@pytest.mark.parametrize("ordered", [True, False])
def test_no_tree_emits_more_than_the_best(width, ordered):
    for seed in range(4):
        shares = random_shares(seed, width=width, ordered=ordered)
        programme = solve(shares, 7, 7)
        for nodes in range(8):
            for depth in range(8):
                best = -numpy.inf
                for forest in forests(nodes, depth, width, width):
                    best = max(best, 1 + gain(forest, shares))
                assert programme.values[nodes, depth] == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("ordered", [True, False])
def test_every_tree_emits_what_its_value_says(ordered):
    shares = random_shares(1, depth=5, width=3, ordered=ordered)
    programme = solve(shares, 20, 6)
    for nodes, depth in numpy.argwhere(numpy.isfinite(programme.values)):
        tree = programme.tree(nodes, depth)
        assert tree.size == nodes
        assert tree.depth <= depth
        assert max(tree.ranks) < 3
        assert list(tree.depths) == sorted(tree.depths)
        value = programme.values[nodes, depth]
        assert tree.expected_tokens(shares) == pytest.approx(value, abs=1e-12)


def test_ordered_shares_make_it_the_likeliest_nodes():
    shares = random_shares(2, depth=12, width=16, ordered=True)
    values = solve(shares, 64, 12).values
    for depth in (3, 5, 12):
        assert values[64, depth] == pytest.approx(likeliest_nodes(shares, 64, depth), abs=1e-12)


def test_greed_loses_where_shares_are_not_ordered():
    shares = [[0.5, 0.05, 0.4], [0.2, 0.0, 0.0]]  # the third child pays for the second
    assert likeliest_nodes(shares, 3, 2) == pytest.approx(1 + 0.5 + 0.1 + 0.05)
    assert best_tree(shares, 3, 2).expected_tokens(shares) == pytest.approx(1 + 0.5 + 0.05 + 0.4)


def test_one_row_for_all_depths_gives_a_worse_tree():
    shares = numpy.array([[0.6, 0.2, 0.1], [0.3, 0.3, 0.2], [0.1, 0.1, 0.1]])
    flat = best_tree(shares[:1], 8, 3)  # what the paper's p, the same at all depths, would build
    assert flat.expected_tokens(shares) < best_tree(shares, 8, 3).expected_tokens(shares) - 0.1


def test_more_nodes_and_more_levels_never_emit_less():
    for seed in range(5):
        values = solve(random_shares(seed, width=2), 30, 6).values
        assert (values[:, 1:] >= values[:, :-1] - 1e-12).all()
        for column in values.T:
            feasible = column[numpy.isfinite(column)]
            assert (numpy.diff(feasible) >= -1e-12).all()
            assert not numpy.isfinite(column[len(feasible) :]).any()
        assert numpy.isfinite(values).sum(0).tolist() == [1, 3, 7, 15, 31, 31, 31]


def walk(tree: StaticTree, bounds: numpy.ndarray, generator: numpy.random.Generator) -> int:
    """The tokens of one round, drawn.

    At every node the target takes one child at most: that of rank k, or none of them.

    Args:
        tree: What is drafted.
        bounds: Cumulated acceptance of the ranks at each depth, [depth, width].
        generator: Where the draws come from.
    """
    node = 0
    tokens = 1
    while tree.children[node]:
        at_depth = bounds[tree.depths[node]]
        rank = int(numpy.searchsorted(at_depth, generator.random(), side="right"))
        if rank >= len(tree.children[node]):
            break
        node = tree.children[node][rank]
        tokens += 1
    return tokens


def test_expected_tokens_equal_a_walk():
    shares = random_shares(3, depth=3, width=2)
    tree = best_tree(shares, 12, 4)
    bounds = shares[[0, 1, 2, 2]].cumsum(1)  # the fourth level uses the third row
    generator = numpy.random.default_rng(0)
    rounds = 20_000
    tokens = sum(walk(tree, bounds, generator) for _ in range(rounds))
    assert tree.depth == 4
    # 0.04: four standard errors
    assert tokens / rounds == pytest.approx(tree.expected_tokens(shares), abs=0.04)


def test_sequoias_own_vector_turned_into_shares():
    p = numpy.array([0.6, 0.5, 0.25])  # accepted, given that the earlier siblings were not
    shares = p * numpy.cumprod([1, *(1 - p[:-1])])
    star = best_tree(shares[None], 3, 1)
    assert star.expected_tokens(shares[None]) == pytest.approx(2 - 0.4 * 0.5 * 0.75)


def test_the_fastest_tree_is_found_on_a_jagged_machine():
    generator = numpy.random.default_rng(0)
    sizes = set()
    for seed in range(12):
        shares = random_shares(seed, depth=3, width=4)
        draft = generator.uniform(0, 0.1)
        table = 1 + generator.uniform(0, 0.8, 13)  # rises and falls
        values = solve(shares, 12, 4).values
        rates = {(0, 0): 1 / table[0]}  # tokens per second by size and depth
        for size in range(1, 13):
            for depth in range(1, 5):
                rates[size, depth] = values[size, depth] / (table[size] + depth * draft)
        tree, rate = best_tree_for(shares, table, draft, 12, 4)
        seconds = table[tree.size] + tree.depth * draft
        assert rate == pytest.approx(max(rates.values()))
        assert rate == pytest.approx(rates[tree.size, tree.depth])
        assert rate == pytest.approx(tree.expected_tokens(shares) / seconds)
        sizes.add(tree.size)
    assert len(sizes) > 3


def test_a_dip_in_the_table_beyond_a_worse_stretch_is_found():
    shares = random_shares(4, ordered=True)
    table = numpy.full(11, 5.0)
    table[[0, 9]] = 1.0
    assert best_tree_for(shares, table, 0.01, 10, 5)[0].size == 9


def rising_seconds(tokens: int) -> float:
    return 1 + 0.05 * tokens


def flat_seconds(_width: int) -> float:
    return 0.02


def seconds_of_a_jump(width: int) -> float:
    """A draft of one node is nearly free, a wider one is dear."""
    return 0.01 if width == 1 else 9.0


def test_a_function_of_tokens_and_its_table_agree():
    shares = random_shares(5)
    table = [rising_seconds(nodes + 1) for nodes in range(11)]
    by_function = best_tree_for(shares, rising_seconds, 0.02, 10, 4)
    assert by_function == best_tree_for(shares, table, 0.02, 10, 4)


def test_a_function_of_widths_and_its_constant_agree():
    shares = random_shares(5)
    by_function = best_tree_for(shares, rising_seconds, flat_seconds, 10, 4)
    assert by_function == best_tree_for(shares, rising_seconds, 0.02, 10, 4)


def test_wide_drafts_that_cost_more_make_the_tree_narrow():
    shares = random_shares(6, ordered=True)
    free, rate = best_tree_for(shares, numpy.ones(13), 0.01, 12, 4)
    narrow, narrow_rate = best_tree_for(shares, numpy.ones(13), seconds_of_a_jump, 12, 4)
    assert max(free.widths) > 1
    assert set(narrow.widths) == {1}
    assert narrow_rate < rate


def test_plain_decoding_wins_where_drafts_are_dear():
    assert best_tree_for(random_shares(7), numpy.full(9, 0.5), 100.0, 8, 4) == (StaticTree(), 2.0)
    assert best_tree_for(random_shares(7), [0.5], 0.0, 0, 0) == (StaticTree(), 2.0)


@pytest.mark.parametrize(
    ("shares", "nodes", "depth", "message"),
    [
        (
            [[0.5, 0.2]],
            7,
            2,
            "no tree of depth 2 and 2 children per node has 7 nodes; 6 is the most",
        ),
        ([[0.5, 0.2]], -1, 2, "must be 0 or more"),
        ([0.5, 0.2], 2, 2, "shape"),
        ([[0.8, 0.5]], 2, 2, "at most 1"),
        ([[0.8, -0.5]], 2, 2, "at most 1"),
        ([[0.8, numpy.nan]], 2, 2, "at most 1"),
    ],
)
def test_impossible_shares_and_sizes_are_refused(shares, nodes, depth, message):
    with pytest.raises(ValueError, match=message):
        best_tree(shares, nodes, depth)


@pytest.mark.parametrize("nodes", [3, -1])
def test_a_tree_of_a_size_that_was_not_solved_for_is_refused(nodes):
    programme = solve([[0.5]], 2, 2)
    with pytest.raises(ValueError, match="solve for more"):
        programme.tree(nodes, 2)


@pytest.mark.parametrize(
    ("target_seconds", "draft_seconds", "nodes", "depth", "message"),
    [
        ([1.0, 1.0], 0.1, 2, 2, "measure more"),
        ([1.0, 0.0], 0.1, 1, 1, "positive and finite"),
        ([1.0, 1.0], -0.1, 1, 1, "negative or nan"),
        ([1.0, 1.0], numpy.nan, 1, 1, "negative or nan"),
    ],
)
def test_impossible_seconds_are_refused(target_seconds, draft_seconds, nodes, depth, message):
    with pytest.raises(ValueError, match=message):
        best_tree_for([[0.5]], target_seconds, draft_seconds, nodes, depth)
