"""Trees of drafts: how they are laid out, and which path is accepted."""

import torch


def parents_of(chosen: list[int], groups: torch.Tensor, topk: int) -> list[int]:
    """The parent of every node of a tree, the root 0 first.

    Args:
        chosen: Where each node stands in SGLang's pool. A node's children stand there side by side,
            in a group of `topk`.
        groups: Where the parent of each group stands in the pool, [groups]. The first group hangs
            from the root, which stands nowhere.
        topk: The size of a group.
    """
    parents = [0]
    for index in chosen:
        group = index // topk
        if group == 0:
            parents.append(0)
        else:
            parents.append(chosen.index(int(groups[group])) + 1)
    return parents


def build_tree_kernel_efficient_cpu(
    parent_list: torch.Tensor,
    selected_index: torch.Tensor,
    seq_lens: torch.Tensor,
    tree_mask: torch.Tensor,
    positions: torch.Tensor,
    retrieve_index: torch.Tensor,
    retrieve_next_token: torch.Tensor,
    retrieve_next_sibling: torch.Tensor,
    topk: int,
    depth: int,
    num_verify_tokens: int,
    tree_mask_mode: int,
) -> None:
    """Links, positions and mask of the trees whose nodes were chosen from a pool.

    Every node is linked to its first child (`retrieve_next_token`) and to its next sibling; -1 is
    none, and stands there before.

    Args:
        parent_list: As in `parents_of`, [B, groups].
        selected_index: As in `parents_of`, [B, N - 1].
        seq_lens: The length of each text, [B].
        tree_mask: Filled: which nodes each node may see, [B * N * N].
        positions: Filled, [B * N].
        retrieve_index: Filled: the node's row in the batch, [B, N].
        retrieve_next_token: Filled, [B, N].
        retrieve_next_sibling: Filled, [B, N].
        topk: The size of a group.
        depth: Not needed.
        num_verify_tokens: N.
        tree_mask_mode: Not needed.
    """
    nodes = num_verify_tokens
    for row, chosen in enumerate(selected_index.tolist()):
        parents = parents_of(chosen, parent_list[row], topk)
        # 1) masks and depths, parents first
        visible = torch.eye(nodes, dtype=torch.bool)  # [N, N]
        depths = [0] * nodes
        for node in range(1, nodes):
            visible[node] |= visible[parents[node]]
            depths[node] = depths[parents[node]] + 1
        # 2) links, the last child first: each becomes the first and pushes the others back
        for node in range(nodes - 1, 0, -1):
            retrieve_next_sibling[row, node] = retrieve_next_token[row, parents[node]]
            retrieve_next_token[row, parents[node]] = node
        # 3) the rows of SGLang's tensors
        retrieve_index[row] = torch.arange(nodes) + row * nodes
        positions.view(-1, nodes)[row] = seq_lens[row] + torch.tensor(depths)
        tree_mask.view(-1, nodes, nodes)[row] = visible


def verify_tree_greedy_cpu(
    predicts: torch.Tensor,
    accept_index: torch.Tensor,
    accept_token_num: torch.Tensor,
    candidates: torch.Tensor,
    retrive_index: torch.Tensor,
    retrive_next_token: torch.Tensor,
    retrive_next_sibling: torch.Tensor,
    target_predict: torch.Tensor,
) -> None:
    """Walk from the root to the child that the target predicts, as long as there is one.

    `predicts` gets the target's tokens along the way.
    """
    for row, predicted in enumerate(target_predict.tolist()):
        path = [0]
        while True:
            node = int(retrive_next_token[row, path[-1]])
            while node != -1 and int(candidates[row, node]) != predicted[path[-1]]:
                node = int(retrive_next_sibling[row, node])
            if node == -1:
                break
            path.append(node)
        accepted = retrive_index[row, path]
        accept_index[row, : len(path)] = accepted.int()
        tokens = [predicted[node] for node in path]
        predicts[accepted] = torch.tensor(tokens, dtype=predicts.dtype)
        accept_token_num[row] = len(path) - 1
