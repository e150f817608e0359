"""Stand-ins in plain torch for the kernels that SGLang asks for on a CPU, where it publishes none.

Everything else that runs is SGLang's own: configuration, loader, layer capture, the EAGLE worker and its tree. Slow, for
greedy requests in float32, without sliding windows, sinks or cross attention.

B requests, N tree nodes with the root, T tokens, S slots of the key-value pool. Row r of `req_to_token` lists the slots of
request r's tokens, in order.
"""

import ctypes

import torch
from torch.nn.functional import scaled_dot_product_attention


def attend(query, key_buffer, value_buffer, slots, mask, scale):
    """Attention [T, heads, width] of queries over the tokens in these slots; mask: bool [T, tokens], what each may see."""
    query, key, value = (
        part.transpose(0, 1) for part in (query, key_buffer[slots], value_buffer[slots])
    )
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
    ).transpose(0, 1)


def refuse(logit_cap, is_cross_attn, sliding_window, sinks):
    if logit_cap or is_cross_attn or sliding_window or sinks is not None:
        raise NotImplementedError("the stand-in kernels know plain causal attention only")


def decode_attention_cpu(
    query,
    k_buffer,
    v_buffer,
    k_scale,
    v_scale,
    output,
    key,
    value,
    loc,
    attn_logits,
    req_to_token,
    req_pool_indices,
    seq_lens,
    sm_scale,
    logit_cap,
    is_cross_attn,
    sliding_window,
    encoder_lens,
    sinks,
):
    """One new token a row: store its key and value, then look at the row's whole text."""
    refuse(logit_cap, is_cross_attn, sliding_window, sinks)
    k_buffer[loc], v_buffer[loc] = (
        key.view(len(loc), *k_buffer.shape[1:]),
        value.view(len(loc), *v_buffer.shape[1:]),
    )
    for row, (pool, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist())):
        slots = req_to_token[pool, :length].long()
        output[row] = attend(query[row : row + 1], k_buffer, v_buffer, slots, None, sm_scale)[0]


def extend_attention_cpu(
    query,
    key,
    value,
    output,
    k_buffer,
    v_buffer,
    k_scale,
    v_scale,
    req_to_token,
    req_pool_indices,
    seq_lens,
    extend_seq_lens,
    extend_start_loc,
    max_len_extend,
    sm_scale,
    logit_cap,
    is_cross_attn,
    sliding_window,
    encoder_lens,
    sinks,
    tree_mask,
    is_causal,
):
    """Several new tokens a request, stored already; seq_lens counts them. tree_mask: bool [B * N * N] among the new ones."""
    refuse(logit_cap, is_cross_attn, sliding_window, sinks)
    for row, (pool, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist())):
        new, start = int(extend_seq_lens[row]), int(extend_start_loc[row])
        mask = torch.ones(new, length, dtype=torch.bool)
        among = mask[:, length - new :]
        among.copy_(among.tril() if tree_mask is None else tree_mask.view(-1, new, new)[row])
        slots = req_to_token[pool, :length].long()
        output[start : start + new] = attend(
            query[start : start + new], k_buffer, v_buffer, slots, mask, sm_scale
        )


for kernel in (decode_attention_cpu, extend_attention_cpu):
    setattr(torch.ops.sgl_kernel, kernel.__name__, kernel)


def build_draft_decode_metadata_cpu(
    req_to_token, req_pool_indices, seq_lens, topk, num_steps, pool_len
):
    """The slots [B * topk, S] that every branch reads: the text's, then the branch's own `num_steps`."""
    rows = req_to_token[req_pool_indices].repeat_interleave(topk, dim=0)
    for row, length in enumerate(seq_lens.repeat_interleave(topk).tolist()):
        first = length + row % topk * num_steps
        rows[row, length : length + num_steps] = req_to_token[
            req_pool_indices[row // topk], first : first + num_steps
        ]
    return rows


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices, req_to_token, seq_lens, out_cache_loc, pool_len, topk, num_cols
):
    """The slots behind every text: `topk * num_cols` for its branches."""
    assign_extend_cache_locs_cpu(
        req_pool_indices,
        req_to_token,
        seq_lens,
        seq_lens + topk * num_cols,
        out_cache_loc,
        pool_len,
    )


def assign_extend_cache_locs_cpu(
    req_pool_indices, req_to_token, start, end, out_cache_loc, pool_len
):
    """The slots from `start` to `end` of every request, one request after the other."""
    spans = zip(req_pool_indices.tolist(), start.tolist(), end.tolist())
    slots = torch.cat([req_to_token[pool, first:last] for pool, first, last in spans])
    out_cache_loc[: len(slots)] = slots


def assign_req_to_token_pool_cpu(
    req_pool_indices, req_to_token, start, end, out_cache_loc, pool_len
):
    """The inverse: note new slots as those from `start` to `end` of every request."""
    taken = 0
    for pool, first, last in zip(req_pool_indices.tolist(), start.tolist(), end.tolist()):
        req_to_token[pool, first:last] = out_cache_loc[taken : taken + last - first]
        taken += last - first


def copy_all_layer_kv_cache_cpu(data_ptrs, strides, tgt_loc, src_loc):
    """Move rows within every layer's buffer; strides are bytes of a row."""
    for address, size in zip(data_ptrs.tolist(), strides.tolist()):
        rows = [ctypes.string_at(address + slot * size, size) for slot in src_loc.tolist()]
        for slot, row in zip(tgt_loc.tolist(), rows):
            ctypes.memmove(address + slot * size, row, size)


def fill_bonus_tokens_cpu(accept_tokens, accept_lens, bonus_tokens, accept_stride):
    """The last of every request's accepted tokens."""
    last = torch.arange(len(accept_lens)) * accept_stride + accept_lens - 1
    bonus_tokens.copy_(accept_tokens.flatten()[last])


def fill_accept_out_cache_loc_cpu(accept_index, out_cache_loc, accept_out_cache_loc):
    """The slots of the accepted nodes, without gaps; -1 is none."""
    slots = out_cache_loc[accept_index[accept_index > -1].long()]
    accept_out_cache_loc[: len(slots)] = slots


def build_tree_kernel_efficient_cpu(
    parent_list,
    selected_index,
    seq_lens,
    tree_mask,
    positions,
    retrieve_index,
    retrieve_next_token,
    retrieve_next_sibling,
    topk,
    depth,
    num_verify_tokens,
    tree_mask_mode,
):
    """Parents, mask and positions of the nodes kept of a pool.

    selected_index [B, N - 1]: their places in the pool, whose groups of `topk` are the children of one node each: of the root,
    then of those that parent_list [B, groups] names by their own places. The links run to a first child and to a sibling.
    """
    nodes = num_verify_tokens
    for row, kept in enumerate(selected_index.tolist()):
        ancestors, depths, parents = torch.eye(nodes, dtype=torch.bool), [0] * nodes, [0] * nodes
        for node, place in enumerate(kept, start=1):
            group = place // topk
            parents[node] = kept.index(int(parent_list[row, group])) + 1 if group else 0
            ancestors[node] |= ancestors[parents[node]]
            depths[node] = depths[parents[node]] + 1
        for node in range(nodes - 1, 0, -1):
            retrieve_next_sibling[row, node] = retrieve_next_token[row, parents[node]]
            retrieve_next_token[row, parents[node]] = node
        retrieve_index[row] = torch.arange(nodes) + row * nodes
        positions.view(-1, nodes)[row] = seq_lens[row] + torch.tensor(depths)
        tree_mask.view(-1, nodes, nodes)[row] = ancestors


def verify_tree_greedy_cpu(
    predicts,
    accept_index,
    accept_token_num,
    candidates,
    retrive_index,
    retrive_next_token,
    retrive_next_sibling,
    target_predict,
):
    """Walk from the root to the child that the target predicts, as long as there is one; `predicts` holds what it says on the way."""
    for row, chosen in enumerate(target_predict.tolist()):
        path, node = [0], 0
        while node != -1:
            node = int(retrive_next_token[row, path[-1]])
            while node != -1 and int(candidates[row, node]) != chosen[path[-1]]:
                node = int(retrive_next_sibling[row, node])
            path += [node] if node != -1 else []
        kept = retrive_index[row, path]
        accept_index[row, : len(path)] = kept.int()
        predicts[kept] = torch.tensor([chosen[node] for node in path], dtype=predicts.dtype)
        accept_token_num[row] = len(path) - 1
