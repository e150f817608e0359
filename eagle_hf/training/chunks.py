"""The LM head and the loss over one chunk of tokens at a time, so that logits never exist for all of them.

A chunk's gradients are taken as soon as its loss is known: its logits are dropped at once and nothing is computed
twice. n learnt tokens, K passes, H hidden, U draft vocabulary.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

LOGITS_PER_CHUNK = 2**21  # 8 MB in float32: what a CPU's caches take, and a fast matrix product
GPU_CHUNKS = 16  # of these at once on a GPU, whose matrix products want more rows (chosen by their shapes, not measured)


def chunked_loss(
    head, hidden: list[torch.Tensor], weights: torch.Tensor, teacher, loss
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of weights [K, n] times the loss, argmax agreements [K]) of the LM head's K inputs `hidden` [n, H]."""
    if type(head.lm_head) is nn.Linear and head.lm_head.bias is None:
        settings = (head.draft_to_target, weights, teacher, loss, torch.is_grad_enabled())
        return _FusedChunks.apply(settings, head.lm_head.weight, *hidden)
    return _recomputed_chunks(head, hidden, weights, teacher, loss)


def _chunks(tokens: int, weight: torch.Tensor):
    """(start, end) of every chunk of tokens; one, empty, where nothing is learnt."""
    elements = LOGITS_PER_CHUNK * (1 if weight.device.type == "cpu" else GPU_CHUNKS)
    rows = max(1, elements // len(weight))
    return [(start, min(start + rows, tokens)) for start in range(0, tokens, rows)] or [(0, 0)]


def precise(logits: torch.Tensor) -> torch.Tensor:
    """float32, or float64 where it came so."""
    return logits if logits.dtype == torch.float64 else logits.float()


class _FusedChunks(torch.autograd.Function):
    """Loss and gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(ctx, settings, weight, *hidden):
        draft_to_target, weights, teacher, loss, differentiate = settings
        device, dtype = weight.device.type, weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        matrix, inputs = weight.to(dtype), [states.to(dtype) for states in hidden]
        d_weight = torch.zeros_like(weight) if differentiate and ctx.needs_input_grad[1] else None
        d_hidden = [torch.empty_like(states) for states in inputs] if differentiate else []
        total, hits = (
            precise(weight.new_zeros(())),
            torch.zeros(len(hidden), dtype=torch.long, device=weight.device),
        )
        with torch.autocast(device, enabled=False):
            for start, end in _chunks(len(teacher.best), weight):
                probs = teacher.probs(start, end, loss.renormalised)
                for ttt_step, states in enumerate(inputs):
                    rows, row_weights = states[start:end], weights[ttt_step, start:end]
                    logits = precise(rows @ matrix.T)
                    agreed = draft_to_target[logits.argmax(-1)] == teacher.best[start:end]
                    hits[ttt_step] += (agreed & (row_weights > 0)).sum()
                    with torch.set_grad_enabled(differentiate):
                        value = (
                            loss.formula(logits.requires_grad_(differentiate), probs) * row_weights
                        ).sum()
                    total += value.detach()
                    if differentiate:
                        (d_logits,) = torch.autograd.grad(value, logits)
                        del logits, value
                        d_logits = d_logits.to(dtype)
                        torch.mm(d_logits, matrix, out=d_hidden[ttt_step][start:end])
                        if d_weight is not None:
                            _add_product(d_weight, d_logits.T, rows)
        ctx.save_for_backward(d_weight, *d_hidden)
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        return None, *(
            None if gradient is None else gradient.mul_(grad) for gradient in ctx.saved_tensors
        )


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, in one pass where the dtypes allow it."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _recomputed_chunks(head, hidden, weights, teacher, loss):
    """For an LM head that is more than a matrix (LoRA): plain autograd, a chunk's logits computed again for its gradient."""

    def chunk_loss(states, start, end, ttt_step):
        logits = precise(head.lm_head(states))
        agreed = head.draft_to_target[logits.argmax(-1)] == teacher.best[start:end]
        row_weights = weights[ttt_step, start:end]
        losses = loss.formula(logits, teacher.probs(start, end, loss.renormalised))
        return (losses * row_weights).sum(), (agreed & (row_weights > 0)).sum()

    total, hits = (
        precise(hidden[0].new_zeros(())),
        [torch.zeros((), dtype=torch.long, device=weights.device) for _ in hidden],
    )
    for start, end in _chunks(len(teacher.best), head.lm_head.weight):
        for ttt_step, states in enumerate(hidden):
            value, agreed = checkpoint(
                chunk_loss, states[start:end], start, end, ttt_step, use_reentrant=False
            )
            total, hits[ttt_step] = total + value, hits[ttt_step] + agreed
    return total, torch.stack(hits)
