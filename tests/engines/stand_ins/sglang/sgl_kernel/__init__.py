"""Stand-ins in plain torch for the kernels that SGLang wants on a CPU, where it publishes none.

Everything else that runs is SGLang's own: configuration, loader, layer capture, the EAGLE worker
and its tree. The stand-ins are slow. They serve greedy requests in float32, without sliding
windows, sinks or cross attention. Names and arguments are SGLang's.

B requests, N tree nodes with the root, T tokens, S slots of the key-value pool. Row r of
`req_to_token` lists the slots of request r's tokens, in order.
"""

import ctypes
from collections.abc import Iterator

import torch
from torch.nn.functional import scaled_dot_product_attention


def attend(
    query: torch.Tensor,
    key_buffer: torch.Tensor,
    value_buffer: torch.Tensor,
    slots: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attention of queries over the tokens in some slots.

    Args:
        query: [T, heads, width].
        key_buffer: [S, KV heads, width].
        value_buffer: [S, KV heads, width].
        slots: The slots of the tokens, [tokens].
        mask: What each query may see, bool [T, tokens]. By default everything.
        scale: What the products are multiplied by.

    Returns:
        [T, heads, width].
    """
    output = scaled_dot_product_attention(
        query.transpose(0, 1),
        key_buffer[slots].transpose(0, 1),
        value_buffer[slots].transpose(0, 1),
        attn_mask=mask,
        scale=scale,
        enable_gqa=True,
    )
    return output.transpose(0, 1)


def refuse(
    logit_cap: float, is_cross_attn: bool, sliding_window: int, sinks: torch.Tensor | None
) -> None:
    """Raise for attention that the stand-ins do not know."""
    if logit_cap or is_cross_attn or sliding_window or sinks is not None:
        raise NotImplementedError("the stand-in kernels know plain causal attention only")


def requests(pools: torch.Tensor, lengths: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """(row of the batch, row of `req_to_token`, length) of every request."""
    pairs = zip(pools.tolist(), lengths.tolist(), strict=True)
    for row, (pool, length) in enumerate(pairs):
        yield row, pool, length


def decode_attention_cpu(
    query: torch.Tensor,
    k_buffer: torch.Tensor,
    v_buffer: torch.Tensor,
    k_scale: float,
    v_scale: float,
    output: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    loc: torch.Tensor,
    attn_logits: torch.Tensor,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    sm_scale: float,
    logit_cap: float,
    is_cross_attn: bool,
    sliding_window: int,
    encoder_lens: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> None:
    """One new token a row: store its key and value, then attend to the row's whole text."""
    refuse(logit_cap, is_cross_attn, sliding_window, sinks)
    k_buffer[loc] = key.view(len(loc), *k_buffer.shape[1:])
    v_buffer[loc] = value.view(len(loc), *v_buffer.shape[1:])
    for row, pool, length in requests(req_pool_indices, seq_lens):
        slots = req_to_token[pool, :length].long()
        output[row] = attend(query[row : row + 1], k_buffer, v_buffer, slots, None, sm_scale)[0]


def extend_attention_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    k_buffer: torch.Tensor,
    v_buffer: torch.Tensor,
    k_scale: float,
    v_scale: float,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    extend_seq_lens: torch.Tensor,
    extend_start_loc: torch.Tensor,
    max_len_extend: int,
    sm_scale: float,
    logit_cap: float,
    is_cross_attn: bool,
    sliding_window: int,
    encoder_lens: torch.Tensor | None,
    sinks: torch.Tensor | None,
    tree_mask: torch.Tensor | None,
    is_causal: bool,
) -> None:
    """Several new tokens a request. They are stored already, and `seq_lens` counts them.

    tree_mask: which of the new tokens each of them may see, bool [B * N * N]. By default those
    before it.
    """
    refuse(logit_cap, is_cross_attn, sliding_window, sinks)
    for row, pool, length in requests(req_pool_indices, seq_lens):
        new = int(extend_seq_lens[row])
        start = int(extend_start_loc[row])
        mask = torch.ones(new, length, dtype=torch.bool)  # [T, tokens]
        if tree_mask is None:
            mask[:, length - new :] = mask[:, length - new :].tril()
        else:
            mask[:, length - new :] = tree_mask.view(-1, new, new)[row]
        slots = req_to_token[pool, :length].long()
        queries = query[start : start + new]
        output[start : start + new] = attend(queries, k_buffer, v_buffer, slots, mask, sm_scale)


# SGLang calls these two as torch's operators, all others as functions of this module.
torch.ops.sgl_kernel.decode_attention_cpu = decode_attention_cpu
torch.ops.sgl_kernel.extend_attention_cpu = extend_attention_cpu


def build_draft_decode_metadata_cpu(
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    topk: int,
    num_steps: int,
    pool_len: int,
) -> torch.Tensor:
    """The slots [B * topk, S] that every branch reads: the text's, then its own `num_steps`."""
    slots = req_to_token[req_pool_indices].repeat_interleave(topk, dim=0)
    for row, length in enumerate(seq_lens.repeat_interleave(topk).tolist()):
        request, branch = divmod(row, topk)
        first = length + branch * num_steps
        own = req_to_token[req_pool_indices[request], first : first + num_steps]
        slots[row, length : length + num_steps] = own
    return slots


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    seq_lens: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
    topk: int,
    num_cols: int,
) -> None:
    """The slots behind every text: `topk * num_cols` for its branches."""
    end = seq_lens + topk * num_cols
    assign_extend_cache_locs_cpu(
        req_pool_indices, req_to_token, seq_lens, end, out_cache_loc, pool_len
    )


def assign_extend_cache_locs_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """The slots from `start` to `end` of every request, one request after the other."""
    taken = 0
    spans = zip(req_pool_indices.tolist(), start.tolist(), end.tolist(), strict=True)
    for pool, first, last in spans:
        count = last - first
        out_cache_loc[taken : taken + count] = req_to_token[pool, first:last]
        taken += count


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """The inverse: note new slots as those from `start` to `end` of every request."""
    taken = 0
    spans = zip(req_pool_indices.tolist(), start.tolist(), end.tolist(), strict=True)
    for pool, first, last in spans:
        count = last - first
        req_to_token[pool, first:last] = out_cache_loc[taken : taken + count]
        taken += count


def copy_all_layer_kv_cache_cpu(
    data_ptrs: torch.Tensor, strides: torch.Tensor, tgt_loc: torch.Tensor, src_loc: torch.Tensor
) -> None:
    """Move rows within every layer's buffer; `strides` are the bytes of a row."""
    sources = src_loc.tolist()
    destinations = tgt_loc.tolist()
    for address, size in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        # all are read before any is written: a destination may be another row's source
        rows = [ctypes.string_at(address + slot * size, size) for slot in sources]
        for slot, row in zip(destinations, rows, strict=True):
            ctypes.memmove(address + slot * size, row, size)


def fill_bonus_tokens_cpu(
    accept_tokens: torch.Tensor,
    accept_lens: torch.Tensor,
    bonus_tokens: torch.Tensor,
    accept_stride: int,
) -> None:
    """The last of every request's accepted tokens."""
    last = torch.arange(len(accept_lens)) * accept_stride + accept_lens - 1
    bonus_tokens.copy_(accept_tokens.flatten()[last])


def fill_accept_out_cache_loc_cpu(
    accept_index: torch.Tensor, out_cache_loc: torch.Tensor, accept_out_cache_loc: torch.Tensor
) -> None:
    """The slots of the accepted nodes, without gaps; -1 is none."""
    slots = out_cache_loc[accept_index[accept_index > -1].long()]
    accept_out_cache_loc[: len(slots)] = slots


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
