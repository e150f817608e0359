"""The head's attention: of training-time test (TTT), and of trees at decoding.

B batch, S queries, T keys, h heads, D head width. Keys and values come with fewer (grouped) heads.
"""

import torch
from torch.nn import functional as F


def _repeat_groups(states: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, groups, T, D] -> [B, heads, T, D]."""
    repeats = heads // states.shape[1]
    return states if repeats == 1 else states.repeat_interleave(repeats, dim=1)


def tree_attention(query, key, value, mask, implementation: str = "sdpa") -> torch.Tensor:
    """Attention of queries [B, h, S, D] over T keys under a bool mask [B, 1, S, T] (True = attend)."""
    key, value = _repeat_groups(key, query.shape[1]), _repeat_groups(value, query.shape[1])
    if implementation == "sdpa":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(-1).to(value.dtype) @ value


def ttt_attention(query, keys: list, values: list, implementation: str = "sdpa") -> torch.Tensor:
    """Attention of one TTT pass: causal over the pass-0 keys, one diagonal term for every later pass, one softmax.

    query [B, h, S, D]; keys[j], values[j] [B, groups, S, D] belong to pass j, the last being the query's own pass.
    Query t sees slots <= t of pass 0 and, of each later pass, its own chain's key at slot t. That is what decoding
    does with a chain, where slot t's drafts attend to the committed prefix and to themselves. Rows are padded on
    the right, so causality alone hides the padding.
    """
    heads, scale = query.shape[1], query.shape[-1] ** -0.5
    keys, values = [_repeat_groups(k, heads) for k in keys], [_repeat_groups(v, heads) for v in values]
    if len(keys) == 1 and implementation == "sdpa":
        return F.scaled_dot_product_attention(query, keys[0], values[0], is_causal=True)
    length = query.shape[2]
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    scores = [(query @ keys[0].transpose(-1, -2) * scale).masked_fill(future, float("-inf"))]
    scores += [(query * key).sum(-1, keepdim=True).to(scores[0].dtype) * scale for key in keys[1:]]
    weights = torch.cat(scores, dim=-1).softmax(-1).to(query.dtype)
    output = weights[..., :length] @ values[0]
    for step, value in enumerate(values[1:]):
        output = output + weights[..., length + step, None] * value
    return output
