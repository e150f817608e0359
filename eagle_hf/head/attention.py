"""The head's attention: of training-time test (TTT), and of trees at decoding.

A TTT pass attends to a causal block, the keys of pass 0, and to one diagonal term for every later pass, under one
softmax. `eager` writes that down and is the oracle. The others run a fused kernel over the block, which never holds
S x S scores, and merge the diagonals in through the kernel's log-sum-exp.

B batch, S queries, T keys, h heads, g groups of them that share keys and values, D head width.
"""

from functools import cache, lru_cache

import torch
from torch.nn import functional as F

from eagle_hf.head.kernels import causal_kernel, repeat_groups


def tree_attention(query, key, value, mask, implementation: str = "sdpa") -> torch.Tensor:
    """Attention of queries [B, h, S, D] over T keys [B, g, T, D] under a bool mask [B, 1, S, T] (True = attend).

    A tree is a handful of queries: every implementation but eager runs sdpa here, which takes any mask.
    """
    if implementation == "eager":
        key, value = repeat_groups(key, query.shape[1]), repeat_groups(value, query.shape[1])
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        return scores.masked_fill(~mask, float("-inf")).softmax(-1).to(value.dtype) @ value
    return grouped_attention(
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        mask.repeat(1, 1, query.shape[1] // key.shape[1], 1),
    )


def grouped_attention(query, key, value, mask, scale: float | None = None) -> torch.Tensor:
    """Attention [B, h, S, D] in which the heads that share keys lie side by side as queries: no key is copied for a head.

    query [B, h, S, D]; key, value [B, g, T, D]; mask, bool or additive: [B, 1, h / g * S, T], the tokens' own once per head.
    """
    packed = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
    return F.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale).reshape(
        query.shape
    )


def ttt_attention(
    query, keys: list, values: list, implementation: str = "sdpa", lengths: list[int] | None = None
) -> torch.Tensor:
    """Attention [B, h, S, D] of one TTT pass: causal over pass 0, the own slot of every later pass, one softmax.

    query [B, h, S, D]; keys[j], values[j] [B, g, S, D] belong to pass j, the last being the query's own pass.
    lengths: of the conversations that lie one after another in every row; None where each row is one.
    Query t sees slots <= t of its conversation in pass 0 and its own chain's key at slot t of each later pass, as a
    chain does at decoding. Rows are padded on the right, so causality alone hides the padding.
    """
    lengths = lengths or [query.shape[2]]
    if sum(lengths) != query.shape[2]:
        raise ValueError(
            f"conversations of {lengths} tokens do not fill rows of {query.shape[2]}; give the length of each"
        )
    if implementation == "eager":
        return _eager(query, keys, values, lengths)
    query, keys = query.to(values[0].dtype), [key.to(values[0].dtype) for key in keys]
    if (
        len(keys) == 1 and len(lengths) == 1 and not torch.is_grad_enabled()
    ):  # a prompt at decoding: any device and dtype
        return F.scaled_dot_product_attention(
            query,
            *(repeat_groups(part, query.shape[1]) for part in (keys[0], values[0])),
            is_causal=True,
        )
    if implementation == "flex_attention":
        return _flex(query, keys, values, lengths)
    kernel = causal_kernel(implementation, query.device.type)
    return _JointSoftmax.apply(kernel, lengths, query, *keys, *values)


def _eager(query, keys, values, lengths):
    """All scores [B, h, S, S + later passes] at once."""
    heads, scale, device = query.shape[1], query.shape[-1] ** -0.5, query.device
    keys, values = (
        [repeat_groups(k, heads) for k in keys],
        [repeat_groups(v, heads) for v in values],
    )
    size, number = (
        query.shape[2],
        torch.arange(len(lengths), device=device).repeat_interleave(
            torch.tensor(lengths, device=device)
        ),
    )
    hidden = torch.ones(size, size, dtype=torch.bool, device=device).triu(1) | (
        number[:, None] != number
    )
    scores = [(query @ keys[0].transpose(-1, -2) * scale).masked_fill(hidden, float("-inf"))]
    scores += [(query * key).sum(-1, keepdim=True).to(scores[0].dtype) * scale for key in keys[1:]]
    weights = torch.cat(scores, dim=-1).softmax(-1).to(query.dtype)
    output = weights[..., :size] @ values[0]
    for step, value in enumerate(values[1:]):
        output = output + weights[..., size + step, None] * value
    return output


def _grouped(states: torch.Tensor, groups: int) -> torch.Tensor:
    """[B, h, ...] -> [B, g, h / g, ...], a view."""
    return states.unflatten(1, (groups, -1))


def _diagonal_scores(query, keys) -> torch.Tensor:
    """Scores [k, B, h, S] in float32 of every query against its own slot's key of k later passes."""
    grouped, scale = _grouped(query, keys[0].shape[1]), query.shape[-1] ** -0.5
    return torch.stack(
        [
            (grouped * key[:, :, None]).sum(-1, dtype=_precise(query)).flatten(1, 2) * scale
            for key in keys
        ]
    )


def _precise(tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _merge(output, lse, scores, values):
    """The block's output [B, h, S, D] with the diagonals under one softmax, and its log-sum-exp [B, h, S]."""
    joint, groups = torch.logsumexp(torch.cat([lse[None], scores]), dim=0), values[0].shape[1]
    merged = _grouped(output * (lse - joint).exp()[..., None].to(output.dtype), groups)
    for score, value in zip(scores, values):
        weight = _grouped((score - joint).exp()[..., None].to(output.dtype), groups)
        merged = torch.addcmul(merged, weight, value[:, :, None])
    return merged.flatten(1, 2), joint


class _JointSoftmax(torch.autograd.Function):
    """A fused causal kernel per conversation, and the diagonals.

    The kernel's own backward pass rebuilds its probabilities from output and log-sum-exp (FlashAttention, arXiv
    2205.14135, section 3.1). Given the *joint* ones it returns the block's share of the joint gradients; the diagonals'
    share is elementwise.
    """

    @staticmethod
    def forward(ctx, kernel, lengths, query, *keys_values):
        keys, values = keys_values[: len(keys_values) // 2], keys_values[len(keys_values) // 2 :]
        pieces = [part.split(lengths, dim=2) for part in (query, keys[0], values[0])]
        blocks = [kernel.forward(q, k, v) for q, k, v in zip(*pieces)]
        output, lse = (
            blocks[0] if len(blocks) == 1 else (torch.cat(parts, dim=2) for parts in zip(*blocks))
        )
        if len(keys) > 1:
            output, lse = _merge(output, lse, _diagonal_scores(query, keys[1:]), values[1:])
        ctx.kernel, ctx.lengths = kernel, lengths
        ctx.save_for_backward(output, lse, query, *keys_values)
        return output

    @staticmethod
    def backward(ctx, grad):
        output, lse, query, *keys_values = ctx.saved_tensors
        keys, values = keys_values[: len(keys_values) // 2], keys_values[len(keys_values) // 2 :]
        pieces = [
            part.split(ctx.lengths, dim=2)
            for part in (grad, query, keys[0], values[0], output, lse)
        ]
        blocks = [ctx.kernel.backward(*piece) for piece in zip(*pieces)]
        d_query, d_key, d_value = (
            blocks[0] if len(blocks) == 1 else (torch.cat(parts, dim=2) for parts in zip(*blocks))
        )
        d_keys, d_values = [d_key], [d_value]
        if len(keys) > 1:
            groups, scale = keys[0].shape[1], query.shape[-1] ** -0.5
            grouped_query, grouped_grad = _grouped(query, groups), _grouped(grad, groups)
            delta = (grad * output).sum(-1, dtype=lse.dtype)
            for score, key, value in zip(_diagonal_scores(query, keys[1:]), keys[1:], values[1:]):
                probs = (score - lse).exp()
                d_score = (
                    probs
                    * (
                        (grouped_grad * value[:, :, None]).sum(-1, dtype=lse.dtype).flatten(1, 2)
                        - delta
                    )
                    * scale
                )
                probs, d_score = (
                    _grouped(part[..., None].to(query.dtype), groups) for part in (probs, d_score)
                )
                d_query = torch.addcmul(
                    _grouped(d_query, groups), d_score, key[:, :, None]
                ).flatten(1, 2)
                d_keys.append((d_score * grouped_query).sum(2))
                d_values.append((probs * grouped_grad).sum(2))
        return None, None, d_query, *d_keys, *d_values


def _flex(query, keys, values, lengths):
    """FlexAttention over the block; its log-sum-exp is differentiable, so autograd merges the diagonals."""
    if query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad:
        raise ValueError(
            "flex_attention has no backward pass on a CPU; train with attn_implementation='sdpa'"
        )
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    run = flex_attention if query.device.type == "cpu" else _compiled_flex()
    mask = _causal_blocks(tuple(lengths), str(query.device))
    output, block = run(
        query, keys[0], values[0], block_mask=mask, enable_gqa=True, return_aux=AuxRequest(lse=True)
    )
    return (
        output
        if len(keys) == 1
        else _merge(output, block.lse, _diagonal_scores(query, keys[1:]), values[1:])[0]
    )


@cache
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


@lru_cache(maxsize=8)
def _causal_blocks(lengths: tuple[int, ...], device: str):
    """The block mask of causal conversations, built without ever holding S x S booleans."""
    from torch.nn.attention.flex_attention import BlockMask

    number = torch.arange(len(lengths), device=device).repeat_interleave(
        torch.tensor(lengths, device=device)
    )

    def visible(batch, head, row, column):
        return (row >= column) & (number[row] == number[column])

    size, block = sum(lengths), 128
    blocks = -(-size // block)
    counts = torch.arange(1, blocks + 1, dtype=torch.int32, device=device)[None, None]
    indices = (
        torch.arange(blocks, dtype=torch.int32, device=device)
        .expand(1, 1, blocks, blocks)
        .contiguous()
    )
    return BlockMask.from_kv_blocks(
        counts, indices, BLOCK_SIZE=block, mask_mod=visible, seq_lengths=(size, size)
    )
