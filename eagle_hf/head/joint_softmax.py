"""One softmax over a fused causal block and the diagonals of later TTT passes.

A fused kernel returns the output of the block and the log-sum-exp of its scores. That is enough to
merge more keys into its softmax: with `joint`, the log-sum-exp over all scores, the block's output
is scaled by `exp(lse - joint)`, and a later pass adds `exp(score - joint)` times its own value.

B batch, S slots, k later passes, h heads, g groups of them that share keys and values, D head
width.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch

from eagle_hf.head.kernels import CausalKernel
from eagle_hf.head.packing import conversation_numbers

FLEX_BLOCK = 128  # tokens of a FlexAttention block


def attend_with_kernel(
    kernel: CausalKernel,
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    lengths: list[int],
) -> torch.Tensor:
    """Run a fused kernel over the block and merge the diagonals in.

    Args:
        kernel: The causal kernel of this device.
        query: Queries [B, h, S, D] of the last pass.
        keys: Keys [B, g, S, D] of every pass.
        values: Values [B, g, S, D] of every pass.
        lengths: Tokens of each conversation of a row; they add up to S.

    Returns:
        The output [B, h, S, D].
    """
    return _JointSoftmax.apply(kernel, lengths, query, *keys, *values)


def attend_with_flex(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    lengths: list[int],
) -> torch.Tensor:
    """Run FlexAttention over the block; autograd merges the diagonals through its log-sum-exp.

    Args:
        query: Queries [B, h, S, D] of the last pass.
        keys: Keys [B, g, S, D] of every pass.
        values: Values [B, g, S, D] of every pass.
        lengths: Tokens of each conversation of a row; they add up to S.

    Returns:
        The output [B, h, S, D].

    Raises:
        ValueError: A gradient is needed on a CPU.
    """
    on_cpu = query.device.type == "cpu"
    if on_cpu and torch.is_grad_enabled() and query.requires_grad:
        raise ValueError(
            "flex_attention has no backward pass on a CPU; train with attn_implementation='sdpa'"
        )
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    attend = flex_attention if on_cpu else _compiled_flex()
    output, block = attend(
        query,
        keys[0],
        values[0],
        block_mask=_causal_blocks(tuple(lengths), str(query.device)),
        enable_gqa=True,
        return_aux=AuxRequest(lse=True),
    )
    if len(keys) == 1:
        return output
    assert block.lse is not None  # it was asked for
    scores = diagonal_scores(query, keys[1:])
    merged, _ = merge_diagonals(output, block.lse, scores, values[1:])
    return merged


@cache
def _compiled_flex() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


@lru_cache(maxsize=8)
def _causal_blocks(lengths: tuple[int, ...], device: str) -> Any:
    """The block mask of causal conversations, built without ever holding S x S booleans."""
    from torch.nn.attention.flex_attention import BlockMask

    number = conversation_numbers(lengths, device)

    def is_visible(
        batch: torch.Tensor, head: torch.Tensor, row: torch.Tensor, column: torch.Tensor
    ) -> torch.Tensor:
        return (row >= column) & (number[row] == number[column])

    size = sum(lengths)
    blocks = -(-size // FLEX_BLOCK)
    # row i of blocks reads the blocks 0 to i
    counts = torch.arange(1, blocks + 1, dtype=torch.int32, device=device)
    indices = torch.arange(blocks, dtype=torch.int32, device=device)
    return BlockMask.from_kv_blocks(
        counts[None, None],
        indices.expand(1, 1, blocks, blocks).contiguous(),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=is_visible,
        seq_lengths=(size, size),
    )


def _grouped(states: torch.Tensor, groups: int) -> torch.Tensor:
    """[B, h, ...] -> [B, g, h / g, ...], a view."""
    return states.unflatten(1, (groups, -1))


def diagonal_scores(query: torch.Tensor, keys: Sequence[torch.Tensor]) -> torch.Tensor:
    """Scores [k, B, h, S] of every query against its own slot's key of k later passes.

    They are float32, or float64 for queries in float64.
    """
    grouped = _grouped(query, keys[0].shape[1])  # [B, g, h / g, S, D]
    scale = query.shape[-1] ** -0.5
    precise = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = []
    for key in keys:
        score = (grouped * key[:, :, None]).sum(-1, dtype=precise)  # [B, g, h / g, S]
        scores.append(score.flatten(1, 2) * scale)
    return torch.stack(scores)


def merge_diagonals(
    output: torch.Tensor,
    lse: torch.Tensor,
    scores: torch.Tensor,
    values: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's output [B, h, S, D] and log-sum-exp [B, h, S], diagonals merged in."""
    groups = values[0].shape[1]
    joint = torch.logsumexp(torch.cat([lse[None], scores]), dim=0)  # [B, h, S]
    share_of_block = (lse - joint).exp()[..., None].to(output.dtype)  # [B, h, S, 1]
    merged = _grouped(output * share_of_block, groups)  # [B, g, h / g, S, D]
    for score, value in zip(scores, values, strict=True):
        weight = (score - joint).exp()[..., None].to(output.dtype)  # [B, h, S, 1]
        weight = _grouped(weight, groups)
        merged = torch.addcmul(merged, weight, value[:, :, None])
    return merged.flatten(1, 2), joint


def _by_conversation(
    function: Callable[..., Sequence[torch.Tensor]], lengths: list[int], *tensors: torch.Tensor
) -> Sequence[torch.Tensor]:
    """The results of a kernel, run on each conversation alone, joined along the slots."""
    if len(lengths) == 1:
        return function(*tensors)
    # the kernel knows one causal block, so no conversation may see another
    pieces = [tensor.split(lengths, dim=2) for tensor in tensors]
    results = [function(*conversation) for conversation in zip(*pieces, strict=True)]
    return [torch.cat(parts, dim=2) for parts in zip(*results, strict=True)]


class _JointSoftmax(torch.autograd.Function):
    """A fused causal kernel per conversation, and the diagonals.

    The kernel's own backward pass rebuilds its probabilities from output and log-sum-exp
    (FlashAttention, arXiv 2205.14135, section 3.1). Given the *joint* ones it returns the block's
    share of the joint gradients. The diagonals' share is elementwise.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernel: CausalKernel,
        lengths: list[int],
        query: torch.Tensor,
        *keys_values: torch.Tensor,
    ) -> torch.Tensor:
        # autograd tracks tensors that are arguments themselves: all keys, then all values
        passes = len(keys_values) // 2
        keys = keys_values[:passes]
        values = keys_values[passes:]
        output, lse = _by_conversation(kernel.forward, lengths, query, keys[0], values[0])
        if passes > 1:
            scores = diagonal_scores(query, keys[1:])
            output, lse = merge_diagonals(output, lse, scores, values[1:])
        ctx.kernel = kernel
        ctx.lengths = lengths
        ctx.save_for_backward(output, lse, query, *keys_values)
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grad_outputs  # [B, h, S, D]
        output, lse, query, *keys_values = ctx.saved_tensors
        passes = len(keys_values) // 2
        keys = keys_values[:passes]
        values = keys_values[passes:]

        # 1) the block
        d_query, d_key, d_value = _by_conversation(
            ctx.kernel.backward, ctx.lengths, grad, query, keys[0], values[0], output, lse
        )
        d_keys = [d_key]
        d_values = [d_value]

        # 2) the diagonals: d_score = prob * (d_prob - delta), as in the block
        if passes > 1:
            groups = keys[0].shape[1]
            scale = query.shape[-1] ** -0.5
            grouped_query = _grouped(query, groups)  # [B, g, h / g, S, D]
            grouped_grad = _grouped(grad, groups)  # [B, g, h / g, S, D]
            delta = (grad * output).sum(-1, dtype=lse.dtype)  # [B, h, S]
            scores = diagonal_scores(query, keys[1:])
            for score, key, value in zip(scores, keys[1:], values[1:], strict=True):
                prob = (score - lse).exp()  # [B, h, S]
                d_prob = (grouped_grad * value[:, :, None]).sum(-1, dtype=lse.dtype).flatten(1, 2)
                d_score = prob * (d_prob - delta) * scale
                prob = _grouped(prob[..., None].to(query.dtype), groups)
                d_score = _grouped(d_score[..., None].to(query.dtype), groups)
                d_query = _grouped(d_query, groups)
                d_query = torch.addcmul(d_query, d_score, key[:, :, None]).flatten(1, 2)
                d_keys.append((d_score * grouped_query).sum(2))  # [B, g, S, D]
                d_values.append((prob * grouped_grad).sum(2))  # [B, g, S, D]
        return None, None, d_query, *d_keys, *d_values
