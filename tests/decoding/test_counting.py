"""What a run counts: drafts, acceptance by node, and every row by itself."""

import pytest
from drafting import given_tree
from tiny import left_padded

from eagle_hf import TreeConfig
from eagle_hf.decoding.stats import DecodingStats


def test_nodes_on_trial_are_those_below_the_walk():
    """Root 0 with children 1 and 2, and 3 and 4 below 1; the walk takes 1, then 4."""
    stats = DecodingStats()
    parents = [0, 0, 0, 1, 1]
    tokens = [9, 11, 12, 13, 14]
    stats.count_nodes(parents, tokens, walk=[11, 14])
    assert stats.nodes == {"0": [1, 1], "1": [1, 0], "0.0": [1, 0], "0.1": [1, 1]}
    stats.count_nodes(parents, tokens, walk=[])
    assert stats.nodes["0"] == [2, 1]
    assert stats.nodes["0.1"] == [1, 1], "below a rejected node nothing is on trial"


def test_counts_of_two_runs_add_up():
    first = DecodingStats()
    first.count_draft(drafted=3, accepted=2, depth=3)
    first.count_forwards((1, 4))
    first.count_row(0, tokens=3)
    first.count_node("0", True)
    second = DecodingStats()
    second.count_draft(drafted=1, accepted=0, depth=1)
    second.count_forwards((1,))
    second.count_row(0, tokens=1)
    second.count_node("0", False)
    both = first + second
    assert (both.drafted, both.deepest) == (4, 3)
    assert both.forwards == [0, 2, 0, 0, 1]
    assert both.by_size == [[], [1], [], [0, 0, 1]]
    assert both.nodes == {"0": [2, 1]}
    assert both.row_tokens == [3, 1]
    assert first.by_size == [[], [], [], [0, 0, 1]], "the parts stay as they were"


@pytest.mark.parametrize("tree", ["chain:3:1:3", "dynamic:3:3:8"])
def test_counts_of_a_run_agree_with_each_other(target, trained_head, tree):
    inputs = left_padded(target, [5, 9])
    with given_tree(trained_head, TreeConfig.parse(tree)):
        target.generate(**inputs, assistant_model=trained_head, max_new_tokens=40, do_sample=False)
    run = trained_head.last_run
    accepted = sum(run.accepted)
    assert sum(run.row_rounds) == run.rounds
    assert sum(run.row_tokens) == run.tokens
    assert min(run.row_rounds) > 0
    counts = [(size, kept, n) for size, row in enumerate(run.by_size) for kept, n in enumerate(row)]
    assert sum(n for _, _, n in counts) == run.rounds
    assert sum(size * n for size, _, n in counts) == run.drafted
    assert sum(kept * n for _, kept, n in counts) == accepted
    for depth, wanted in enumerate(run.accepted):
        level = [found for path, (_, found) in run.nodes.items() if path.count(".") == depth]
        assert sum(level) == wanted
    first = [trials for path, (trials, _) in run.nodes.items() if "." not in path]
    assert max(first) == run.trials[0]
    assert accepted > 0
