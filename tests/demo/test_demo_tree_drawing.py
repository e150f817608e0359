"""A tree as it is drawn: by hand-computed places.

node    0 ---- 1 ---- 3 ---- 5 (the target's own)      row  0
          |      |
          |      4                                           1
          2                                                  2
"""

import xml.etree.ElementTree as ElementTree

import pytest
import torch

from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.verify import Verdict
from eagle_hf.demo.drafted_tree import DraftedTree
from eagle_hf.demo.tree_drawing import columns_of, drawn_nodes, rows_of, tree_svg

SVG = "{http://www.w3.org/2000/svg}"
TREE = DraftedTree((10, 11, 12, 13, 14), (0, 0, 0, 1, 1), accepted=(1, 3), bonus=15)
WORDS = {10: " root", 11: "<b>", 12: "&", 13: "\n", 14: "a very long token", 15: "own"}


def classes(svg, tag):
    return [element.get("class") for element in svg.iter(SVG + tag)]


@pytest.fixture(scope="module")
def drawing() -> ElementTree.Element:
    return ElementTree.fromstring(tree_svg(TREE, WORDS.__getitem__))


def test_a_parent_is_in_the_middle_of_its_children():
    nodes = drawn_nodes(TREE, WORDS.__getitem__)
    assert [node.depth for node in nodes] == [0, 1, 1, 2, 2, 3]
    assert rows_of(nodes) == [1.25, 0.5, 2.0, 0.0, 1.0, 0.0]


def test_columns_are_as_wide_as_their_longest_label():
    nodes = drawn_nodes(TREE, WORDS.__getitem__)
    starts = columns_of(nodes)
    for node in nodes:
        assert starts[node.depth] + node.width < starts[node.depth + 1]


def test_accepted_drafts_and_the_targets_own_token_are_marked(drawing):
    expected = [
        "node root",
        "node accepted depth-1",
        "node rejected",
        "node accepted depth-2",
        "node rejected",
        "node bonus",
    ]
    assert classes(drawing, "g") == expected
    edges = [kind.replace("node", "edge") for kind in expected[1:]]
    assert classes(drawing, "path") == edges
    assert drawing.get("aria-label") == "4 drafts, 2 accepted"


def test_labels_are_short_and_show_their_spaces(drawing):
    labels = [text.text for text in drawing.iter(SVG + "text")]
    assert labels == [
        "\u00b7root",
        "<b>",
        "&",
        "\u21b5",
        "a\u00b7very\u00b7long\u00b7t\u2026",
        "own",
    ]
    titles = [title.text for title in drawing.iter(SVG + "title")]
    assert titles[4] == "'a very long token': draft of depth 2, not accepted"


def test_a_round_that_ends_with_a_draft_has_no_bonus_token():
    """The target emitted 11 and 13, and 13 ended the answer: its node is not in the path."""
    tokens, parents = torch.tensor([TREE.tokens]), torch.tensor([TREE.parents])
    tree = Tree(tokens, parents, torch.tensor([[0, 1, 1, 2, 2]]))
    ended = Verdict(path=[0, 1], tokens=[11, 13], finished=True, trials=2, accepted=2)
    assert DraftedTree.of_round(tree, ended) == DraftedTree(TREE.tokens, TREE.parents, (1, 3), None)
    goes_on = Verdict(path=[0, 1], tokens=[11, 99], finished=False, trials=2, accepted=1)
    assert DraftedTree.of_round(tree, goes_on).accepted == (1,)
    assert DraftedTree.of_round(tree, goes_on).bonus == 99
