"""The best static tree: against every tree there is, against the walk it models, and against every shape's measured cost."""

import json
from functools import cache

import numpy
import pytest

from eagle_hf.planning.sequoia import (
    StaticTree,
    acceptance_vector,
    best_tree,
    best_tree_for,
    draw,
    solve,
)

FORK = StaticTree(
    (0, 0, 0, 1, 3), (0, 0, 1, 0, 0)
)  # two children, the first with a chain of two below it
FORK_SHARES = [[0.5, 0.2], [0.4, 0.1], [0.3, 0.0]]


def random_shares(seed, depth=7, width=7, ordered=False):
    """Rows that sum to 0.5 .. 0.95, in no order unless asked."""
    generator = numpy.random.default_rng(seed)
    shares = generator.dirichlet(numpy.full(width, 0.5), size=depth) * generator.uniform(
        0.5, 0.95, (depth, 1)
    )
    return -numpy.sort(-shares, axis=1) if ordered else shares


@cache
def forests(nodes, levels, places, width):
    """All ordered forests of so many nodes and at most so many trees side by side, as nested tuples."""
    if nodes == 0:
        return [()]
    if levels == 0 or places == 0:
        return []
    return [
        (first, *others)
        for size in range(1, nodes + 1)
        for first in forests(size - 1, levels - 1, width, width)
        for others in forests(nodes - size, levels, places - 1, width)
    ]


def gain(forest, shares, depth=0):
    return sum(
        shares[depth][rank] * (1 + gain(below, shares, depth + 1))
        for rank, below in enumerate(forest)
    )


def likeliest_nodes(shares, nodes, depth):
    """Grow greedily: add the open node of the highest path product, always, as ranks come."""
    total, opened = (
        1.0,
        [(shares[0][0], 0, 0, 1.0)],
    )  # probability, depth of the parent, rank, the parent's probability
    for _ in range(nodes):
        chosen = max(opened)
        opened.remove(chosen)
        probability, at, rank, above = chosen
        total += probability
        if rank + 1 < len(shares[at]):
            opened.append((above * shares[at][rank + 1], at, rank + 1, above))
        if at + 1 < depth:
            opened.append((probability * shares[at + 1][0], at + 1, 0, probability))
    return total


def test_the_enumeration_is_complete():
    assert [len(forests(nodes, 7, 7, 7)) for nodes in range(8)] == [
        1,
        1,
        2,
        5,
        14,
        42,
        132,
        429,
    ]  # Catalan numbers


@pytest.mark.parametrize("width", [1, 2, 3, 7])
@pytest.mark.parametrize("ordered", [True, False])
def test_no_tree_emits_more_than_the_best(width, ordered):
    for seed in range(4):
        shares = random_shares(seed, width=width, ordered=ordered)
        programme = solve(shares, 7, 7)
        for nodes in range(8):
            for depth in range(8):
                every = [1 + gain(forest, shares) for forest in forests(nodes, depth, width, width)]
                assert programme.values[nodes, depth] == pytest.approx(
                    max(every, default=-numpy.inf), abs=1e-12
                )


@pytest.mark.parametrize("ordered", [True, False])
def test_every_tree_is_what_its_value_promises(ordered):
    shares = random_shares(1, depth=5, width=3, ordered=ordered)
    programme = solve(shares, 20, 6)
    for nodes, depth in numpy.argwhere(numpy.isfinite(programme.values)):
        tree = programme.tree(nodes, depth)
        assert tree.size == nodes and tree.depth <= depth and max(tree.ranks) < 3
        assert list(tree.depths) == sorted(tree.depths)
        assert tree.expected_tokens(shares) == pytest.approx(
            programme.values[nodes, depth], abs=1e-12
        )


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


def test_expected_tokens_equal_a_walk():
    shares, rounds, generator = (
        random_shares(3, depth=3, width=2),
        20_000,
        numpy.random.default_rng(0),
    )
    tree, tokens = best_tree(shares, 12, 4), 0  # the fourth level uses the third row
    bounds = shares[[0, 1, 2, 2]].cumsum(1)
    for _ in range(rounds):
        node, tokens = 0, tokens + 1
        while tree.children[
            node
        ]:  # one child at most is accepted: the target takes rank k, or none of them
            rank = int(
                numpy.searchsorted(bounds[tree.depths[node]], generator.random(), side="right")
            )
            if rank >= len(tree.children[node]):
                break
            node, tokens = tree.children[node][rank], tokens + 1
    assert tree.depth == 4
    assert tokens / rounds == pytest.approx(
        tree.expected_tokens(shares), abs=0.04
    )  # four standard errors


def test_sequoias_own_vector_turned_into_shares():
    p = numpy.array([0.6, 0.5, 0.25])  # accepted, given that the earlier siblings were not
    shares = p * numpy.cumprod([1, *(1 - p[:-1])])
    star = best_tree(shares[None], 3, 1)
    assert star.expected_tokens(shares[None]) == pytest.approx(2 - 0.4 * 0.5 * 0.75)


def test_reach_depths_and_widths_by_hand():
    assert FORK.depths == (0, 1, 1, 2, 3) and FORK.depth == 3 and FORK.size == 4
    assert FORK.children == ((1, 2), (3,), (), (4,), ()) and FORK.widths == (1, 1, 1)
    assert FORK.reach(FORK_SHARES).tolist() == pytest.approx([1, 0.5, 0.2, 0.2, 0.06])
    assert FORK.expected_tokens(FORK_SHARES) == pytest.approx(1.96)
    assert StaticTree((0, 0, 0), (0, 1, 0)).children == (
        (2, 1),
        (),
        (),
    )  # by rank, in whatever order they are listed


def test_the_fastest_tree_is_found_on_a_jagged_machine():
    generator = numpy.random.default_rng(0)
    sizes = set()
    for seed in range(12):
        shares, draft = random_shares(seed, depth=3, width=4), generator.uniform(0, 0.1)
        table = 1 + generator.uniform(0, 0.8, 13)  # rises and falls
        values = solve(shares, 12, 4).values
        rates = {(0, 0): 1 / table[0]} | {
            (n, d): values[n, d] / (table[n] + d * draft) for n in range(1, 13) for d in range(1, 5)
        }
        tree, rate = best_tree_for(shares, table, draft, 12, 4)
        assert rate == pytest.approx(max(rates.values())) and rates[
            tree.size, tree.depth
        ] == pytest.approx(rate)
        assert rate == pytest.approx(
            tree.expected_tokens(shares) / (table[tree.size] + tree.depth * draft)
        )
        sizes.add(tree.size)
    assert len(sizes) > 3


def test_a_dip_in_the_table_beyond_a_worse_stretch_is_found():
    shares = random_shares(4, ordered=True)
    table = numpy.full(11, 5.0)
    table[[0, 9]] = 1.0
    assert best_tree_for(shares, table, 0.01, 10, 5)[0].size == 9


def test_a_function_of_tokens_and_its_table_agree():
    shares = random_shares(5)
    by_function = best_tree_for(shares, lambda tokens: 1 + 0.05 * tokens, 0.02, 10, 4)
    assert by_function == best_tree_for(
        shares, [1 + 0.05 * (nodes + 1) for nodes in range(11)], 0.02, 10, 4
    )
    assert by_function == best_tree_for(
        shares, lambda tokens: 1 + 0.05 * tokens, lambda width: 0.02, 10, 4
    )


def test_wide_drafts_that_cost_more_make_the_tree_narrow():
    shares = random_shares(6, ordered=True)
    free, rate = best_tree_for(shares, numpy.ones(13), 0.01, 12, 4)
    narrow, less = best_tree_for(
        shares, numpy.ones(13), lambda width: 0.01 if width == 1 else 9.0, 12, 4
    )
    assert max(free.widths) > 1 and set(narrow.widths) == {1} and less < rate


def test_plain_decoding_wins_where_drafts_are_dear():
    assert best_tree_for(random_shares(7), numpy.full(9, 0.5), 100.0, 8, 4) == (StaticTree(), 2.0)
    assert best_tree_for(random_shares(7), [0.5], 0.0, 0, 0) == (StaticTree(), 2.0)


def test_counts_become_shares():
    shares = acceptance_vector(([10, 4, 0], [[5, 2], [1, 0], [0, 0]]))
    assert shares.tolist() == [[0.5, 0.2], [0.25, 0.0], [0.25, 0.0]]


def test_a_depth_never_tried_takes_the_deepest_tried_row_above():
    shares = acceptance_vector(([10, 0, 5, 0, 0], [[5], [0], [1], [0], [0]]))
    assert shares[:, 0].tolist() == [0.5, 0.5, 0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    "trials, accepted, message",
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
def test_counts_that_cannot_be_are_refused(trials, accepted, message):
    with pytest.raises(ValueError, match=message):
        acceptance_vector((trials, accepted))


def test_trees_survive_json():
    for tree in (FORK, StaticTree(), best_tree(random_shares(8), 20, 5)):
        assert StaticTree.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


@pytest.mark.parametrize(
    "parents, ranks, message",
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
def test_what_is_no_tree_is_refused(parents, ranks, message):
    with pytest.raises(ValueError, match=message):
        StaticTree.from_dict({"parents": parents, "ranks": ranks})


def test_a_tree_with_other_keys_is_refused():
    with pytest.raises(ValueError, match="keys parents and ranks"):
        StaticTree.from_dict({"parents": [0]})


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: best_tree([[0.5, 0.2]], 7, 2),
            "no tree of depth 2 and 2 children per node has 7 nodes; 6 is the most",
        ),
        (lambda: best_tree([[0.5, 0.2]], -1, 2), "must be 0 or more"),
        (lambda: solve([[0.5]], 2, 2).tree(3, 2), "solve for more"),
        (lambda: solve([[0.5]], 2, 2).tree(-1, 2), "solve for more"),
        (lambda: best_tree([0.5, 0.2], 2, 2), "shape"),
        (lambda: best_tree([[0.8, 0.5]], 2, 2), "at most 1"),
        (lambda: best_tree([[0.8, -0.5]], 2, 2), "at most 1"),
        (lambda: best_tree([[0.8, numpy.nan]], 2, 2), "at most 1"),
        (lambda: FORK.expected_tokens([[0.5]]), "rank 1 but shares has 1 ranks"),
        (lambda: best_tree_for([[0.5]], [1.0, 1.0], 0.1, 2, 2), "measure more"),
        (lambda: best_tree_for([[0.5]], [1.0, 0.0], 0.1, 1, 1), "positive and finite"),
        (lambda: best_tree_for([[0.5]], [1.0, 1.0], -0.1, 1, 1), "negative or nan"),
        (lambda: best_tree_for([[0.5]], [1.0, 1.0], numpy.nan, 1, 1), "negative or nan"),
    ],
)
def test_what_cannot_be_planned_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_drawing_shows_every_node_and_its_probability():
    assert draw(FORK, FORK_SHARES).splitlines() == [
        "root: 4 nodes, depth 3, 1.96 tokens per round",
        "├─ 0  0.500",
        "│  └─ 0  0.200",
        "│     └─ 0  0.060",
        "└─ 1  0.200",
    ]
