"""The head's attention: of training-time test (TTT), and of trees at decoding.

A TTT pass attends to the keys of pass 0 as a causal block, and to its own slot's key of every
later pass: one diagonal term each, all under one softmax. `eager` writes that down and is the
oracle. The other implementations run a fused kernel over the block, which never holds S x S
scores, and merge the diagonals into its softmax (see joint_softmax.py).

    pass 2, slot 3 of S = 5:    keys of pass 0   x x x x .     causal
                                keys of pass 1   . . . x .     the own slot
                                keys of pass 2   . . . x .     the own slot

B batch, S queries, T keys, k later passes, h heads, g groups of them that share keys and values,
D head width.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from eagle_hf.head.joint_softmax import attend_with_flex, attend_with_kernel
from eagle_hf.head.kernels import causal_kernel, repeat_groups
from eagle_hf.head.packing import conversation_numbers


def tree_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    implementation: str = "sdpa",
) -> torch.Tensor:
    """Attend from the nodes of a tree.

    A tree has few queries, so every implementation but eager runs sdpa, which takes any mask.

    Args:
        query: The nodes' queries [B, h, S, D].
        key: Keys [B, g, T, D] of the text and the tree.
        value: Values [B, g, T, D].
        mask: Bool mask [B, 1, S, T], True where a query may attend.
        implementation: The head's `attn_implementation`.

    Returns:
        The output [B, h, S, D].
    """
    heads = query.shape[1]
    if implementation == "eager":
        key = repeat_groups(key, heads)  # [B, h, T, D]
        value = repeat_groups(value, heads)  # [B, h, T, D]
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # [B, h, S, T]
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return weights.to(value.dtype) @ value
    packed_mask = mask.repeat(1, 1, heads // key.shape[1], 1)  # [B, 1, h / g * S, T]
    return grouped_attention(query.to(value.dtype), key.to(value.dtype), value, packed_mask)


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None = None,
) -> torch.Tensor:
    """Attend with the heads that share keys laid side by side as queries: no key is copied.

    Args:
        query: Queries [B, h, S, D].
        key: Keys [B, g, T, D].
        value: Values [B, g, T, D].
        mask: Bool or additive mask [B, 1, h / g * S, T], the queries' own once per head.
        scale: Factor of the scores; default: D ** -0.5.

    Returns:
        The output [B, h, S, D].
    """
    # [B, g, h / g * S, D]
    packed = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
    output = F.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
    return output.reshape(query.shape)


def ttt_attention(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    implementation: str = "sdpa",
    lengths: list[int] | None = None,
) -> torch.Tensor:
    """Attend in one TTT pass: causal over pass 0, the own slot of every later pass.

    Query t sees the slots <= t of its conversation in pass 0, and its own chain's key at slot t of
    each later pass, as a chain does at decoding. Rows are padded on the right, so causality alone
    hides the padding.

    Args:
        query: Queries [B, h, S, D] of the last pass.
        keys: `keys[j]` [B, g, S, D] are those of pass j, the last being the query's own.
        values: `values[j]` [B, g, S, D], likewise.
        implementation: The head's `attn_implementation`.
        lengths: Tokens of the conversations that lie one after another in every row. None where
            each row is one conversation.

    Returns:
        The output [B, h, S, D].

    Raises:
        ValueError: The lengths do not add up to S, or the device has no such implementation.
    """
    lengths = lengths or [query.shape[2]]
    if sum(lengths) != query.shape[2]:
        raise ValueError(
            f"conversations of {lengths} tokens do not fill rows of {query.shape[2]}; "
            "give the length of each"
        )
    if implementation == "eager":
        return _eager(query, keys, values, lengths)

    # under autocast RoPE gives float32, which the kernels do not mix with the values' dtype
    dtype = values[0].dtype
    query = query.to(dtype)
    keys = [key.to(dtype) for key in keys]

    is_prompt = len(keys) == 1 and len(lengths) == 1 and not torch.is_grad_enabled()
    if is_prompt:  # at decoding, on any device and in any dtype
        return _causal(query, keys[0], values[0])
    if implementation == "flex_attention":
        return attend_with_flex(query, keys, values, lengths)
    kernel = causal_kernel(implementation, query.device.type)
    return attend_with_kernel(kernel, query, keys, values, lengths)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Plain causal attention [B, h, S, D] over keys and values [B, g, S, D]."""
    heads = query.shape[1]
    key = repeat_groups(key, heads)
    value = repeat_groups(value, heads)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def _eager(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    lengths: list[int],
) -> torch.Tensor:
    """All scores [B, h, S, S + k] at once: the oracle of the other implementations."""
    heads = query.shape[1]
    size = query.shape[2]
    scale = query.shape[-1] ** -0.5
    keys = [repeat_groups(key, heads) for key in keys]
    values = [repeat_groups(value, heads) for value in values]

    # 1) the block of pass 0, without later slots and without other conversations
    number = conversation_numbers(lengths, query.device)  # [S]
    is_later = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)  # [S, S]
    is_foreign = number[:, None] != number  # [S, S]
    block = query @ keys[0].transpose(-1, -2) * scale  # [B, h, S, S]
    scores = [block.masked_fill(is_later | is_foreign, float("-inf"))]

    # 2) one diagonal per later pass
    for key in keys[1:]:
        diagonal = (query * key).sum(-1, keepdim=True)  # [B, h, S, 1]
        scores.append(diagonal.to(block.dtype) * scale)

    # 3) one softmax
    weights = torch.cat(scores, dim=-1).softmax(-1).to(query.dtype)  # [B, h, S, S + k]
    output = weights[..., :size] @ values[0]
    for step, value in enumerate(values[1:]):
        output = output + weights[..., size + step, None] * value
    return output
