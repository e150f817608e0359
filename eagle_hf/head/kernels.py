"""Fused causal attention, forward and backward, by implementation and device.

Each forward returns the log-sum-exp of its scores too, and each backward takes output and log-sum-exp as arguments:
whoever merges more keys into the softmax gives the merged ones back (see attention.py).

B batch, S queries, h heads, g groups of them that share keys and values, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F


def repeat_groups(states: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, g, T, D] -> [B, h, T, D]."""
    repeats = heads // states.shape[1]
    return states if repeats == 1 else states.repeat_interleave(repeats, dim=1)


@dataclass(frozen=True)
class CausalKernel:
    """`run(q, k, v) -> (output, lse)` and `differentiate(grad, q, k, v, output, lse) -> (dq, dk, dv)`, all [B, h, S, D]."""

    run: Callable
    differentiate: Callable

    def forward(self, query, key, value):
        """(output [B, h, S, D], log-sum-exp [B, h, S]); keys and values [B, g, S, D]."""
        heads = query.shape[1]
        return self.run(query, repeat_groups(key, heads), repeat_groups(value, heads))

    def backward(self, grad, query, key, value, output, lse):
        """Gradients of query [B, h, S, D], key and value [B, g, S, D]."""
        heads, groups = query.shape[1], key.shape[1]
        repeated = repeat_groups(key, heads), repeat_groups(value, heads)
        d_query, *gradients = self.differentiate(grad, query, *repeated, output, lse)
        return d_query, *(gradient.unflatten(1, (groups, -1)).sum(2) for gradient in gradients)


def _cpu_forward(query, key, value):
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)


def _cpu_backward(grad, query, key, value, output, lse):
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, output, lse, 0.0, True
    )


def _cuda_forward(query, key, value):
    """The memory-efficient kernel, for float32, float16 and bfloat16; its log-sum-exp comes padded."""
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, True
    )
    return output, lse[..., : query.shape[2]]


def _cuda_backward(grad, query, key, value, output, lse):
    padded = F.pad(lse, (0, -lse.shape[-1] % 32), value=float("inf"))
    unused = torch.zeros((), dtype=torch.long, device=query.device)  # the dropout's seed and offset
    return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad,
        query,
        key,
        value,
        None,
        output,
        padded,
        unused,
        unused,
        0.0,
        [True, True, True, False],
        True,
    )[:3]


def _flash_forward(query, key, value):
    from flash_attn import flash_attn_func

    rows = [part.transpose(1, 2).contiguous() for part in (query, key, value)]
    output, lse, _ = flash_attn_func(*rows, causal=True, return_attn_probs=True)
    return output.transpose(1, 2), lse


def _flash_backward(grad, query, key, value, output, lse):
    from flash_attn.flash_attn_interface import _wrapped_flash_attn_backward

    grad, query, key, value, output = (
        part.transpose(1, 2).contiguous() for part in (grad, query, key, value, output)
    )
    gradients = [torch.empty_like(part) for part in (query, key, value)]
    _wrapped_flash_attn_backward(
        grad,
        query,
        key,
        value,
        output,
        lse.contiguous(),
        *gradients,
        dropout_p=0.0,
        softmax_scale=query.shape[-1] ** -0.5,
        causal=True,
        window_size_left=-1,
        window_size_right=-1,
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
    )
    return [part.transpose(1, 2) for part in gradients]


_KERNELS = {
    ("sdpa", "cpu"): CausalKernel(_cpu_forward, _cpu_backward),
    ("sdpa", "cuda"): CausalKernel(_cuda_forward, _cuda_backward),
    ("flash_attention_2", "cuda"): CausalKernel(_flash_forward, _flash_backward),
}


def causal_kernel(implementation: str, device: str) -> CausalKernel:
    """The kernel of an `attn_implementation` on a device type; ValueError where there is none."""
    if (implementation, device) not in _KERNELS:
        raise ValueError(
            f"attn_implementation is {implementation!r} on {device}; choose sdpa (CPU, CUDA), flex_attention or flash_attention_2 "
            "(CUDA), or eager (anywhere, with memory quadratic in the length)"
        )
    return _KERNELS[implementation, device]
