"""Trees as tensors, and trees in the target's and the head's eyes."""

import torch

from tiny import left_padded
from eagle_hf.decoding.cache import TreeCache
from eagle_hf.decoding.drafters import EagleDrafter
from eagle_hf.decoding.masks import TreeMask
from eagle_hf.decoding.stats import Stopwatch
from eagle_hf.decoding.tree import Tree, best_nodes
from eagle_hf.target import aux_layer_ids, capture_aux


def random_tree(nodes, seed, vocab_size=31, rows=1):
    generator = torch.Generator().manual_seed(seed)
    parents = [[0] + [int(torch.randint(0, i, (), generator=generator)) for i in range(1, nodes)] for _ in range(rows)]
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
    tree = Tree(torch.tensor([[5, 7, 8, 9]]), torch.tensor([[0, 0, 0, 2]]), torch.tensor([[0, 1, 1, 2]]))
    assert tree.children(0) == [{7: 1, 8: 2}, {}, {9: 3}, {}]


def test_tree_logits_equal_path_by_path_logits(target):
    inputs, rows = left_padded(target, [6, 9]), 2
    tree, cache = random_tree(14, seed=3, rows=rows), TreeCache()
    with torch.no_grad():
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        target(**inputs, position_ids=positions, past_key_values=cache)
        mask, positions = TreeMask(target, **inputs).of(tree, ends=[9, 9], limit=64)
        together = target(tree.tokens, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
        for row in range(rows):
            prompt = inputs["input_ids"][row, inputs["attention_mask"][row].bool()]
            for node in range(14):
                alone = torch.cat([prompt, tree.tokens[row, path_to(tree, node, row)]])[None]
                assert torch.allclose(target(alone).logits[0, -1], together[row, node], rtol=0, atol=1e-6)


def test_commit_keeps_one_branch_of_every_row(target):
    cache, keys = TreeCache(), torch.arange(2 * 9.0).view(2, 1, 9, 1)
    cache.update(keys, keys.clone(), 0)  # five committed slots, then a tree of four nodes
    cache.commit(base=5, ends=[5, 3], paths=[[0, 2, 3], [0]])
    kept = cache.layers[0].keys[:, 0, :, 0]
    assert kept[0].tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert kept[1, :4].tolist() == [9, 10, 11, 14]
    assert cache.get_seq_length() == 8


def test_a_finished_row_keeps_its_cache():
    cache, keys = TreeCache(), torch.arange(2 * 6.0).view(2, 1, 6, 1)
    cache.update(keys, keys.clone(), 0)
    cache.commit(base=4, ends=[4, 2], paths=[[0, 1], []])
    assert cache.layers[0].keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert cache.layers[0].keys[1, 0, :2, 0].tolist() == [6, 7]


def test_drafted_scores_are_those_of_the_heads_own_chain(target, head):
    """Every node's log-probability equals the head's along that path alone: the tree's masks and positions are right."""
    inputs = left_padded(target, [8])
    with torch.no_grad(), capture_aux(target, aux_layer_ids(target, head.config)) as aux:
        target(**inputs)
        states = aux.take()
    ids = inputs["input_ids"]
    drafter = EagleDrafter(head, target, head.tree, Stopwatch())
    root = torch.tensor([9])
    with torch.no_grad():
        drafter.start(ids, inputs["attention_mask"].bool(), states, root)
        tree = drafter.draft_tree(root, max_depth=9)
        for node in range(1, tree.tokens.shape[1]):
            drafts = tree.tokens[0, path_to(tree, node)[1:]]
            text = torch.cat([ids[0], root, drafts])[None]
            embeddings = target.get_input_embeddings()(text[:, 1:])
            outputs = head(embeddings[:, : ids.shape[1]], states, ttt_length=1)
            outputs = head(embeddings, torch.nn.functional.pad(states, (0, 0, 0, len(drafts))), ttt_length=len(drafts)) if len(drafts) > 1 else outputs
            logp = head.logits(outputs[len(drafts) - 1][0, ids.shape[1] - 1]).log_softmax(-1)
            best = head.draft_to_target[logp.topk(head.tree.top_k).indices]
            assert drafts[-1] in best
