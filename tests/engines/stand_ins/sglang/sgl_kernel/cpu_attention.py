"""Attention of new tokens over the key-value pool; shapes as in the package's docstring."""

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


def each_request(pools: torch.Tensor, lengths: torch.Tensor) -> Iterator[tuple[int, int, int]]:
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
    for row, pool, length in each_request(req_pool_indices, seq_lens):
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
    for row, pool, length in each_request(req_pool_indices, seq_lens):
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
