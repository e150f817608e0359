"""Traces: which recorded child is which node, by hand."""

import pytest
import torch
from tiny import tiny_head, tiny_target

from eagle_hf.measuring.runs import PrefilledPrompt, TimedRun
from eagle_hf.measuring.traces import expanded_nodes, record


def test_expanded_nodes_of_three_levels():
    """k = 2. The pool holds proposals 1 and 2 below the root, then four for each level.

    Level 0 runs proposals 1 and 2: nodes 1 and 2. Their children are proposals 3, 4 and 5, 6.
    Level 1 runs 5 and 3: nodes 3 and 4. Their children are proposals 7, 8 and 9, 10.
    Level 2 runs 8 and 10: nodes 5 and 6.
    """
    levels = [torch.tensor([[1, 2]]), torch.tensor([[5, 3]]), torch.tensor([[8, 10]])]
    nodes = expanded_nodes(levels, k=2, shape=(7, 3))  # 3 children are recorded of each node
    assert nodes.tolist() == [
        [1, 2, -1],  # of the root: its two best
        [4, -1, -1],  # of node 1: its best was run second
        [3, -1, -1],  # of node 2: its best was run first
        [-1, 5, -1],  # of node 3: its second
        [-1, 6, -1],  # of node 4: its second
        [-1, -1, -1],
        [-1, -1, -1],
    ]


def test_expanded_nodes_of_a_root_alone():
    assert expanded_nodes([], k=2, shape=(1, 3)).tolist() == [[-1, -1, -1]]


def test_texts_beyond_what_a_changing_rope_lets_trees_read_are_refused():
    rope = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0}
    target = tiny_target(max_position_embeddings=32, rope_parameters=rope)
    head = tiny_head(target)
    prompt = torch.full((1, 20), 5)
    with pytest.raises(ValueError, match="'dynamic' and max_length is 36, beyond its 32"):
        record(target, head, [prompt], [torch.full((16,), 5)])
    with pytest.raises(ValueError, match="'dynamic' and max_length is 33, beyond its 32"):
        TimedRun(PrefilledPrompt(target, head, prompt), None, new_tokens=13)
