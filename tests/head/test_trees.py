"""The shape of drafts: what it follows from, how it is written, and what is no tree."""

import pytest

from eagle_hf import TreeConfig
from eagle_hf.head.trees import check_static_tree


@pytest.mark.parametrize("text", ["dynamic:4:4:16", "chain:4:1:4", "chain:2:1:2:rejection"])
def test_a_tree_is_read_as_it_is_written(text):
    assert str(TreeConfig.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["dynamic", "chain:4:1", "chain:4:one:4", "chain:4:1:4:rejection:"]
)
def test_other_texts_are_no_trees(text):
    with pytest.raises(ValueError, match="write policy:depth:top_k:nodes"):
        TreeConfig.parse(text)


def test_depth_and_nodes_follow_from_a_fixed_shape():
    tree = TreeConfig("sequoia", parents=(0, 0, 0, 1), ranks=(0, 0, 1, 0))
    assert (tree.depth, tree.top_k, tree.nodes) == (2, 2, 3)


def test_the_nodes_that_a_drafter_expands_are_those_with_children():
    assert TreeConfig("dynamic", depth=3, top_k=5, nodes=8).max_expanded_nodes == 10
    fixed = TreeConfig("sequoia", parents=(0, 0, 0, 1), ranks=(0, 0, 1, 0))
    assert fixed.max_expanded_nodes == 1


@pytest.mark.parametrize(
    "parents, ranks, what",
    [
        ((0, 0), (0,), "2 parents and 1 ranks"),
        ((1, 0), (0, 0), "node 0 must be the root"),
        ((0, 2, 0), (0, 0, 0), "node 1 has the parent 2"),
        ((0, 0, 0), (0, 0, 0), "two children of rank 0"),
        ((0, 0, 0), (0, 0, 2), "needed are 0 to 1"),
    ],
)
def test_lists_that_are_no_tree_are_refused(parents, ranks, what):
    with pytest.raises(ValueError, match=what):
        check_static_tree(parents, ranks)


@pytest.mark.parametrize(
    "settings",
    [
        dict(policy="beam"),
        dict(depth=0),
        dict(nodes=-1),
        dict(top_k=1.5),
        dict(policy="sequoia", ranks=(0, 0)),
        dict(parents=(0, 0), ranks=(0, 0)),
        dict(policy="sequoia", parents=(0,), ranks=(0,)),
        dict(policy="sequoia", parents=("tree", 0), ranks=(0, 0)),
    ],
)
def test_impossible_trees_are_refused(settings):
    with pytest.raises(ValueError, match="tree|parents"):
        TreeConfig(**settings)
