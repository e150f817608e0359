"""Trees as tensors, and trees in the target's and the head's eyes."""

import pytest
import torch
from drafting import drafter_of
from tiny import left_padded
from torch.nn.functional import pad

from eagle_hf import TreeConfig
from eagle_hf.compat import GENERATE_CACHE
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.masks import TreeMask
from eagle_hf.decoding.tree import Tree, best_nodes
from eagle_hf.target import aux_layer_ids, target_states


def random_tree(nodes, seed, vocab_size=31, batch=1):
    generator = torch.Generator().manual_seed(seed)
    parents = []
    depths = []
    for _ in range(batch):
        row_parents = [0]
        row_depths = [0]
        for node in range(1, nodes):
            parent = int(torch.randint(0, node, (), generator=generator))
            row_parents.append(parent)
            row_depths.append(row_depths[parent] + 1)
        parents.append(row_parents)
        depths.append(row_depths)
    tokens = torch.randint(3, vocab_size, (batch, nodes), generator=generator)
    return Tree(tokens, torch.tensor(parents), torch.tensor(depths))


def path_from_root(tree, node, row=0):
    """The nodes from the root to this one, both included."""
    path = [node]
    while path[0] != 0:
        path.insert(0, int(tree.parents[row, path[0]]))
    return path


def test_mask_is_the_set_of_ancestors():
    for seed in range(20):
        tree = random_tree(12, seed)
        for node in range(12):
            visible = tree.ancestors[0, node].nonzero()[:, 0]
            assert visible.tolist() == path_from_root(tree, node)


def test_best_nodes_keeps_a_connected_tree_and_breaks_ties_by_depth():
    # 1 -> 2 -> 3 with probability one each, so that all three tie; 4 is a worse sibling of 1
    tree = best_nodes(
        torch.tensor([10]),
        tokens=torch.tensor([[11, 14, 12, 13]]),
        parents=torch.tensor([[0, 0, 1, 3]]),
        depths=torch.tensor([1, 1, 2, 3]),
        scores=torch.tensor([[0.0, -2.0, 0.0, 0.0]]),
        nodes=2,
    )
    assert tree.tokens.tolist() == [[10, 11, 12]]
    assert tree.parents.tolist() == [[0, 0, 1]]
    assert tree.depths.tolist() == [[0, 1, 2]]


def test_children_by_token():
    tree = Tree(
        tokens=torch.tensor([[5, 7, 8, 9]]),
        parents=torch.tensor([[0, 0, 0, 2]]),
        depths=torch.tensor([[0, 1, 1, 2]]),
    )
    assert tree.children(0) == [{7: 1, 8: 2}, {}, {9: 3}, {}]


@torch.no_grad()
def test_tree_logits_equal_path_by_path_logits(target):
    inputs = left_padded(target, [6, 9])
    tree = random_tree(14, seed=3, batch=2)

    # 1) the prompt, then the whole tree at once
    cache = TargetCache()
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    target(**inputs, position_ids=positions, **{GENERATE_CACHE: cache})
    mask, positions = TreeMask(target, **inputs).for_tree(tree, ends=[9, 9], limit=64)
    settings = {"attention_mask": mask, "position_ids": positions, GENERATE_CACHE: cache}
    together = target(tree.tokens, **settings).logits  # [B, N, V]

    # 2) every path alone
    for row in range(2):
        prompt = inputs["input_ids"][row, inputs["attention_mask"][row].bool()]
        for node in range(14):
            path = tree.tokens[row, path_from_root(tree, node, row)]
            alone = target(torch.cat([prompt, path])[None]).logits[0, -1]
            assert torch.allclose(alone, together[row, node], rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_tree_holds_the_best_paths_by_the_heads_own_probabilities(target, head, monkeypatch):
    """A proposal's score is the sum of the head's log-probabilities along its path.

    They are computed here path by path.
    """
    inputs = left_padded(target, [8])
    pools = []

    def watched(*pool):
        pools.append(pool)
        return best_nodes(*pool)

    monkeypatch.setattr("eagle_hf.decoding.growth.best_nodes", watched)
    ids = inputs["input_ids"]
    root = torch.tensor([9])
    states, _ = target_states(target, ids, aux_layer_ids(target, head.config))
    drafter = drafter_of(head, target)
    drafter.start(ids, inputs["attention_mask"].bool(), states, root, None)
    tree = drafter.draft(root, max_depth=9).tree
    root, tokens, parents, depths, scores, nodes = pools[0]
    text = torch.cat([ids[0], root])
    for proposal in range(0, tokens.shape[1], 5):
        path = [proposal]
        while parents[0, path[0]] != 0:
            path.insert(0, int(parents[0, path[0]]) - 1)
        assert len(path) == depths[proposal]
        expected = chain_log_probability(target, head, text, states, tokens[0, path])
        assert scores[0, proposal] == pytest.approx(expected, rel=1e-5)
    assert tree.tokens.shape == (1, nodes + 1)
    assert int(tree.depths.max()) > 1


@torch.no_grad()
def test_a_fixed_shape_holds_each_nodes_guesses_by_rank(target, head):
    """Node i is its parent's guess number ranks[i], as unrolling its path alone ranks it."""
    shape = TreeConfig(
        "sequoia", parents=(0, 0, 0, 1, 1, 2, 3, 6, 5), ranks=(0, 0, 1, 0, 1, 0, 0, 0, 0)
    )
    assert (shape.depth, shape.top_k, shape.nodes) == (4, 2, 8)
    ids = left_padded(target, [8])["input_ids"]
    root = torch.tensor([9])
    states, _ = target_states(target, ids, aux_layer_ids(target, head.config))
    drafter = drafter_of(head, target, shape)
    drafter.start(ids, torch.ones_like(ids).bool(), states, root, None)
    tree = drafter.draft(root, max_depth=3).tree  # one level less than the shape has
    assert tree.depths[0].tolist() == [0, 1, 1, 2, 2, 2, 3, 3]
    assert tree.parents[0].tolist() == [0, 0, 0, 1, 1, 2, 3, 5]
    text = torch.cat([ids[0], root])
    for node, rank in enumerate((0, 1, 0, 1, 0, 0, 0), start=1):
        path = path_from_root(tree, node)[1:]
        logits = chain_logits(target, head, text, states, tree.tokens[0, path])[-1]
        guess = logits.topk(rank + 1).indices[-1]
        assert head.draft_to_target[guess] == tree.tokens[0, node]


def chain_logits(target, head, text, states, drafts):
    """The head's logits before each of a chain of drafts after `text`, by unrolling it alone."""
    slot = len(text) - 2
    embeddings = target.get_input_embeddings()(torch.cat([text, drafts])[None, 1:])
    missing = embeddings.shape[1] - states.shape[1]
    passes = head(embeddings, pad(states, (0, 0, 0, missing)), ttt_length=len(drafts))
    return [head.logits(output[0, slot]).float() for output in passes]


def chain_log_probability(target, head, text, states, drafts):
    """Sum of the head's log-probabilities of a chain of drafts."""
    total = 0.0
    chain = chain_logits(target, head, text, states, drafts)
    for logits, token in zip(chain, drafts, strict=True):
        index = (head.draft_to_target == token).nonzero()[0, 0]
        total += float(logits.log_softmax(-1)[index])
    return total
