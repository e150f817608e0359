"""The LM head and the loss over one chunk of tokens at a time.

So logits never exist for all tokens at once. A chunk's gradients are taken as soon as its loss is
known: its logits are dropped at once and nothing is computed twice.

n learnt tokens, c tokens of a chunk, K passes, H hidden, U draft vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.training.teacher import Teacher, precise

# 8 MB in float32: what a CPU's caches take, and a fast matrix product.
LOGITS_PER_CHUNK = 2**21

# So many times more on a GPU, whose matrix products want more tokens. Chosen by their shapes, not
# measured.
GPU_CHUNKS = 16


@dataclass(frozen=True)
class Loss:
    """A formula, and whether p is renormalised over the draft vocabulary for it.

    Args:
        formula: (draft logits [n, U], target probabilities [n, U]) -> losses [n].
        renormalised: False gives the formula the probabilities of the whole vocabulary.
    """

    formula: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    renormalised: bool


@dataclass
class _Task:
    """Everything but the differentiated tensors that the loss of a chunk needs.

    weights [K, n] are the weights of the losses; draft_to_target [U].
    """

    draft_to_target: torch.Tensor
    weights: torch.Tensor
    teacher: Teacher
    loss: Loss

    def probs(self, start: int, end: int) -> torch.Tensor:
        """The target's probabilities [c, U] as the loss wants them."""
        return self.teacher.probs(start, end, self.loss.renormalised)

    def count_hits(self, logits: torch.Tensor, ttt_step: int, start: int, end: int) -> torch.Tensor:
        """How many of a chunk's tokens have the target's argmax, tokens without weight left out."""
        drafted = self.draft_to_target[logits.argmax(-1)]  # [c]
        agreed = drafted == self.teacher.best[start:end]
        return (agreed & (self.weights[ttt_step, start:end] > 0)).sum()


def chunked_loss(
    head: Eagle3DraftHead,
    hidden: list[torch.Tensor],
    weights: torch.Tensor,
    teacher: Teacher,
    loss: Loss,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the weighted loss of all passes, and count argmax agreements, a chunk at a time.

    Args:
        head: the draft head, for its LM head and draft vocabulary.
        hidden: the LM head's input in each of the K passes, [n, H].
        weights: of every token's loss in every pass, [K, n].
        teacher: what the target says about the n tokens.
        loss: the formula.

    Returns:
        (the summed loss, a scalar; argmax agreements of each pass, [K]).
    """
    task = _Task(head.draft_to_target, weights, teacher, loss)
    is_plain_matrix = type(head.lm_head) is nn.Linear and head.lm_head.bias is None
    if is_plain_matrix:
        return _FusedChunks.apply(task, torch.is_grad_enabled(), head.lm_head.weight, *hidden)
    return _recomputed_chunks(head, hidden, task)


def _chunk_bounds(tokens: int, weight: torch.Tensor) -> list[tuple[int, int]]:
    """(start, end) of every chunk of tokens for an LM head `weight` [U, H]."""
    elements = LOGITS_PER_CHUNK
    if weight.device.type != "cpu":
        elements *= GPU_CHUNKS
    size = max(1, elements // len(weight))
    if tokens == 0:
        # One empty chunk, so that the loss still hangs on every parameter.
        return [(0, 0)]
    return [(start, min(start + size, tokens)) for start in range(0, tokens, size)]


class _FusedChunks(torch.autograd.Function):
    """Loss and gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, task: _Task, differentiate: bool, weight: torch.Tensor, *hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # 1) The matrix product runs in the autocast dtype, as in nn.Linear.
        device = weight.device.type
        dtype = weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        matrix = weight.to(dtype)  # [U, H]
        inputs = [states.to(dtype) for states in hidden]  # K times [n, H]

        # 2) The sums, and room for the gradients.
        total = precise(weight.new_zeros(()))
        hits = torch.zeros(len(hidden), dtype=torch.long, device=weight.device)  # [K]
        d_weight = None
        d_hidden = []
        if differentiate:
            d_hidden = [torch.empty_like(states) for states in inputs]
            if ctx.needs_input_grad[2]:
                d_weight = torch.zeros_like(weight)

        # 3) A chunk of tokens after the other, all passes of it.
        with torch.autocast(device, enabled=False):
            for start, end in _chunk_bounds(len(task.teacher.best), weight):
                probs = task.probs(start, end)  # [c, U]
                for ttt_step, states in enumerate(inputs):
                    chunk = states[start:end]  # [c, H]
                    chunk_weights = task.weights[ttt_step, start:end]  # [c]
                    logits = precise(chunk @ matrix.T)  # [c, U]
                    hits[ttt_step] += task.count_hits(logits, ttt_step, start, end)
                    with torch.set_grad_enabled(differentiate):
                        losses = task.loss.formula(logits.requires_grad_(differentiate), probs)
                        value = (losses * chunk_weights).sum()
                    total += value.detach()
                    if not differentiate:
                        continue
                    (d_logits,) = torch.autograd.grad(value, logits)
                    del logits, losses, value  # d_logits is cast next: no room for both
                    d_logits = d_logits.to(dtype)
                    torch.mm(d_logits, matrix, out=d_hidden[ttt_step][start:end])
                    if d_weight is not None:
                        _add_product(d_weight, d_logits.T, chunk)
        ctx.save_for_backward(d_weight, *d_hidden)
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        gradients = []
        for gradient in ctx.saved_tensors:
            if gradient is not None:
                gradient.mul_(grad)
            gradients.append(gradient)
        return None, None, *gradients


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, in one pass where the dtypes allow it."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _recomputed_chunks(
    head: Eagle3DraftHead, hidden: list[torch.Tensor], task: _Task
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for an LM head that is more than a matrix (LoRA), by plain autograd.

    A chunk's logits are computed again for its gradient.
    """

    def chunk_loss(
        states: torch.Tensor, start: int, end: int, ttt_step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(weighted loss, hits) of a chunk [c, H]."""
        logits = precise(head.lm_head(states))  # [c, U]
        hits = task.count_hits(logits, ttt_step, start, end)
        losses = task.loss.formula(logits, task.probs(start, end))  # [c]
        return (losses * task.weights[ttt_step, start:end]).sum(), hits

    total = precise(hidden[0].new_zeros(()))
    hits = torch.zeros(len(hidden), dtype=torch.long, device=task.weights.device)  # [K]
    for start, end in _chunk_bounds(len(task.teacher.best), head.lm_head.weight):
        for ttt_step, states in enumerate(hidden):
            value, chunk_hits = checkpoint(
                chunk_loss, states[start:end], start, end, ttt_step, use_reentrant=False
            )
            total = total + value
            hits[ttt_step] += chunk_hits
    return total, hits
