"""Trees as tensors, and trees in the target's and the head's eyes."""

import pytest
import torch
from drafting import drafter_of
from tiny import left_padded

from eagle_hf import TreeConfig
from eagle_hf.compat import GENERATE_CACHE
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.masks import TreeMask
from eagle_hf.decoding.tree import Tree, best_nodes
from eagle_hf.target import aux_layer_ids, target_states


def random_tree(nodes, seed, vocab_size=31, rows=1):
    generator = torch.Generator().manual_seed(seed)
    parents = [
        [0] + [int(torch.randint(0, i, (), generator=generator)) for i in range(1, nodes)]
        for _ in range(rows)
    ]
    depths = []
    for row in parents:
        depth = [0]
        for node in range(1, nodes):
            depth.append(depth[row[node]] + 1)
        depths.append(depth)
    tokens = torch.randint(3, vocab_size, (rows, nodes), generator=generator)
    return Tree(tokens, torch.tensor(parents), torch.tensor(depths))


def path_to(tree, node, row=0):
    path = [node]
    while path[0]:
        path.insert(0, int(tree.parents[row, path[0]]))
    return path


def test_mask_is_the_set_of_ancestors():
    for seed in range(20):
        tree = random_tree(12, seed)
        for node in range(12):
            assert tree.ancestors[0, node].nonzero()[:, 0].tolist() == path_to(tree, node)


def test_best_nodes_keeps_a_connected_tree_and_breaks_ties_by_depth():
    # 1 -> 2 -> 3 with probability one each, so that all three tie; 4 is a worse sibling of 1
    tokens, parents = torch.tensor([[11, 14, 12, 13]]), torch.tensor([[0, 0, 1, 3]])
    scores, depths = torch.tensor([[0.0, -2.0, 0.0, 0.0]]), torch.tensor([1, 1, 2, 3])
    tree = best_nodes(torch.tensor([10]), tokens, parents, depths, scores, nodes=2)
    assert tree.tokens.tolist() == [[10, 11, 12]] and tree.parents.tolist() == [[0, 0, 1]]
    assert tree.depths.tolist() == [[0, 1, 2]]


def test_children_by_token():
    tree = Tree(
        torch.tensor([[5, 7, 8, 9]]), torch.tensor([[0, 0, 0, 2]]), torch.tensor([[0, 1, 1, 2]])
    )
    assert tree.children(0) == [{7: 1, 8: 2}, {}, {9: 3}, {}]


def test_tree_logits_equal_path_by_path_logits(target):
    inputs, rows = left_padded(target, [6, 9]), 2
    tree, cache = random_tree(14, seed=3, rows=rows), TargetCache()
    with torch.no_grad():
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        target(**inputs, position_ids=positions, **{GENERATE_CACHE: cache})
        mask, positions = TreeMask(target, **inputs).for_tree(tree, ends=[9, 9], limit=64)
        together = target(
            tree.tokens, attention_mask=mask, position_ids=positions, **{GENERATE_CACHE: cache}
        ).logits
        for row in range(rows):
            prompt = inputs["input_ids"][row, inputs["attention_mask"][row].bool()]
            for node in range(14):
                alone = torch.cat([prompt, tree.tokens[row, path_to(tree, node, row)]])[None]
                assert torch.allclose(
                    target(alone).logits[0, -1], together[row, node], rtol=0, atol=1e-6
                )


def test_commit_keeps_one_branch_of_every_row(target):
    cache, keys = TargetCache(), torch.arange(2 * 9.0).view(2, 1, 9, 1)
    cache.update(keys, keys.clone(), 0)  # five committed slots, then a tree of four nodes
    cache.commit(base=5, ends=[5, 3], paths=[[0, 2, 3], [0]])
    kept = cache.layers[0].keys[:, 0, :, 0]
    assert kept[0].tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert kept[1, :4].tolist() == [9, 10, 11, 14]
    assert cache.get_seq_length() == 8


def test_a_finished_row_keeps_its_cache():
    cache, keys = TargetCache(), torch.arange(2 * 6.0).view(2, 1, 6, 1)
    cache.update(keys, keys.clone(), 0)
    cache.commit(base=4, ends=[4, 2], paths=[[0, 1], []])
    assert cache.layers[0].keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert cache.layers[0].keys[1, 0, :2, 0].tolist() == [6, 7]


@pytest.mark.parametrize("limit, slots", [(300, 300), (None, 556)])
def test_a_growing_cache_doubles_up_to_what_a_call_may_need(limit, slots):
    cache, keys = TargetCache(limit=limit), torch.arange(290.0).view(1, 1, 290, 1)
    cache.update(keys[:, :, :150], keys[:, :, :150], 0)  # room for 128 more
    cache.update(keys[:, :, 150:], keys[:, :, 150:], 0)
    assert cache.layers[0]._keys.shape[2] == slots and torch.equal(cache.layers[0].keys, keys)


def test_a_cache_forgets_its_newest_slots():
    cache, keys = TargetCache(), torch.arange(7.0).view(1, 1, 7, 1)
    cache.update(keys, keys, 0)
    cache.crop(-3)
    cache.update(keys[:, :, :1] + 9, keys[:, :, :1] + 9, 0)
    assert (
        cache.layers[0].keys.flatten().tolist() == [0, 1, 2, 3, 9] and cache.get_seq_length() == 5
    )


def test_the_tree_holds_the_best_paths_by_the_heads_own_probabilities(target, head, monkeypatch):
    """Every proposal's score is the sum of the head's log-probabilities along its path, computed path by path."""
    inputs, pools = left_padded(target, [8]), []
    monkeypatch.setattr(
        "eagle_hf.decoding.growth.best_nodes", lambda *pool: pools.append(pool) or best_nodes(*pool)
    )
    ids, root = inputs["input_ids"], torch.tensor([9])
    with torch.no_grad():
        states, _ = target_states(target, ids, aux_layer_ids(target, head.config))
        drafter = drafter_of(head, target)
        drafter.start(ids, inputs["attention_mask"].bool(), states, root, None)
        tree = drafter.draft(root, max_depth=9).tree
        root, tokens, parents, depths, scores, nodes = pools[0]
        for proposal in range(0, tokens.shape[1], 5):
            path = [proposal]
            while parents[0, path[0]]:
                path.insert(0, int(parents[0, path[0]]) - 1)
            assert len(path) == depths[proposal]
            expected = chain_log_probability(
                target, head, torch.cat([ids[0], root]), states, tokens[0, path]
            )
            assert scores[0, proposal] == pytest.approx(expected, rel=1e-5)
    assert tree.tokens.shape == (1, nodes + 1) and int(tree.depths.max()) > 1


def test_a_fixed_shape_holds_each_nodes_guesses_by_rank(target, head):
    """Node i is its parent's guess number ranks[i], as unrolling its path alone ranks it."""
    shape = TreeConfig(
        "sequoia", parents=(0, 0, 0, 1, 1, 2, 3, 6, 5), ranks=(0, 0, 1, 0, 1, 0, 0, 0, 0)
    )
    assert (shape.depth, shape.top_k, shape.nodes) == (4, 2, 8)
    ids, root = left_padded(target, [8])["input_ids"], torch.tensor([9])
    with torch.no_grad():
        states, _ = target_states(target, ids, aux_layer_ids(target, head.config))
        drafter = drafter_of(head, target, shape)
        drafter.start(ids, torch.ones_like(ids).bool(), states, root, None)
        tree = drafter.draft(root, max_depth=3).tree  # one level less than the shape has
        assert tree.depths[0].tolist() == [0, 1, 1, 2, 2, 2, 3, 3] and tree.parents[0].tolist() == [
            0,
            0,
            0,
            1,
            1,
            2,
            3,
            5,
        ]
        for node, rank in zip(range(1, 8), (0, 1, 0, 1, 0, 0, 0)):
            path = [node]
            while tree.parents[0, path[0]]:
                path.insert(0, int(tree.parents[0, path[0]]))
            logits = chain_logits(
                target, head, torch.cat([ids[0], root]), states, tree.tokens[0, path]
            )[-1]
            assert head.draft_to_target[logits.topk(rank + 1).indices[-1]] == tree.tokens[0, node]


def chain_logits(target, head, text, states, drafts):
    """The head's logits before each of a chain of drafts after `text`, by unrolling it alone."""
    slot = len(text) - 2
    embeddings = target.get_input_embeddings()(torch.cat([text, drafts])[None, 1:])
    padded = torch.nn.functional.pad(states, (0, 0, 0, embeddings.shape[1] - states.shape[1]))
    return [
        head.logits(output[0, slot]).float()
        for output in head(embeddings, padded, ttt_length=len(drafts))
    ]


def chain_log_probability(target, head, text, states, drafts):
    """Sum of the head's log-probabilities of a chain of drafts."""
    total = 0.0
    for logits, token in zip(chain_logits(target, head, text, states, drafts), drafts):
        total += float(logits.log_softmax(-1)[(head.draft_to_target == token).nonzero()[0, 0]])
    return total
