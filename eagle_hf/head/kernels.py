"""Fused causal attention, forward and backward, by implementation and device.

Each forward returns the log-sum-exp of its scores too, and each backward takes output and
log-sum-exp as arguments. A caller that merges more keys into the softmax passes the merged ones
to the backward (see attention.py).

B batch, S queries, T keys, h heads, g groups of them that share keys and values, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

LSE_MULTIPLE = 32  # the memory-efficient kernel pads its log-sum-exp to a multiple of this


def repeat_groups(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat keys or values for all heads that share them: [B, g, T, D] -> [B, h, T, D]."""
    repeats = heads // states.shape[1]
    if repeats == 1:
        return states
    return states.repeat_interleave(repeats, dim=1)


@dataclass(frozen=True)
class CausalKernel:
    """Causal attention whose softmax other keys can be merged into.

    Args:
        run: `run(query, key, value) -> (output, lse)`, all [B, h, S, D] but lse [B, h, S].
        differentiate: `differentiate(grad, query, key, value, output, lse)`, which returns the
            gradients of query, key and value [B, h, S, D].
    """

    run: Callable
    differentiate: Callable

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend to keys and values [B, g, S, D].

        Returns:
            (output [B, h, S, D], log-sum-exp of the scores [B, h, S]).
        """
        heads = query.shape[1]
        return self.run(query, repeat_groups(key, heads), repeat_groups(value, heads))

    def backward(
        self,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        lse: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of query [B, h, S, D], key and value [B, g, S, D]."""
        heads = query.shape[1]
        groups = key.shape[1]
        d_query, d_key, d_value = self.differentiate(
            grad, query, repeat_groups(key, heads), repeat_groups(value, heads), output, lse
        )
        # heads that share a key add up their gradients
        d_key = d_key.unflatten(1, (groups, -1)).sum(2)  # [B, g, S, D]
        d_value = d_value.unflatten(1, (groups, -1)).sum(2)  # [B, g, S, D]
        return d_query, d_key, d_value


def _cpu_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)


def _cpu_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
) -> Sequence[torch.Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, output, lse, 0.0, True
    )


def _cuda_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The memory-efficient kernel, for float32, float16 and bfloat16."""
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query,
        key,
        value,
        None,  # bias
        True,  # return the log-sum-exp
        0.0,  # dropout
        True,  # causal
    )
    return output, lse[..., : query.shape[2]]  # it comes padded


def _cuda_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
) -> Sequence[torch.Tensor]:
    padded_lse = F.pad(lse, (0, -lse.shape[-1] % LSE_MULTIPLE), value=float("inf"))
    unused = torch.zeros((), dtype=torch.long, device=query.device)
    gradients = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad,
        query,
        key,
        value,
        None,  # bias
        output,
        padded_lse,
        unused,  # the dropout's seed
        unused,  # the dropout's offset
        0.0,  # dropout
        [True, True, True, False],  # gradients of query, key and value, but of no bias
        True,  # causal
    )
    return gradients[:3]


def _tokens_first(states: torch.Tensor) -> torch.Tensor:
    """[B, h, S, D] -> [B, S, h, D], contiguous, as flash_attn wants it."""
    return states.transpose(1, 2).contiguous()


def _flash_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    from flash_attn import flash_attn_func

    output, lse, _ = flash_attn_func(
        _tokens_first(query),
        _tokens_first(key),
        _tokens_first(value),
        causal=True,
        return_attn_probs=True,
    )
    return output.transpose(1, 2), lse


def _flash_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
) -> Sequence[torch.Tensor]:
    from flash_attn.flash_attn_interface import _wrapped_flash_attn_backward

    query = _tokens_first(query)
    key = _tokens_first(key)
    value = _tokens_first(value)
    gradients = [torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)]
    _wrapped_flash_attn_backward(
        _tokens_first(grad),
        query,
        key,
        value,
        _tokens_first(output),
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
    return [gradient.transpose(1, 2) for gradient in gradients]


_KERNELS = {
    ("sdpa", "cpu"): CausalKernel(_cpu_forward, _cpu_backward),
    ("sdpa", "cuda"): CausalKernel(_cuda_forward, _cuda_backward),
    ("flash_attention_2", "cuda"): CausalKernel(_flash_forward, _flash_backward),
}


def causal_kernel(implementation: str, device: str) -> CausalKernel:
    """Return the kernel of an attention implementation on a device.

    Args:
        implementation: The `attn_implementation` of a model.
        device: A device type, as "cpu".

    Raises:
        ValueError: There is none.
    """
    if (implementation, device) not in _KERNELS:
        raise ValueError(
            f"attn_implementation is {implementation!r} on {device}; choose sdpa (CPU, CUDA), "
            "flex_attention or flash_attention_2 "
            "(CUDA), or eager (anywhere, with memory quadratic in the length)"
        )
    return _KERNELS[implementation, device]
