"""The modules of the draft head: RoPE, attention and the one decoder layer.

Module names are the names on disk, so weights are never renamed.

B batch, S sequence, H hidden, h heads, g groups of them that share keys and values, D head width.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from eagle_hf.head.configuration import Eagle3Config

# attend(query [B, h, S, D], key [B, g, S, D], value [B, g, S, D]) -> [B, h, S, D]
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# project(norm(h) [B, S, H]) -> query, key and value [B, S, heads * D]
Project = Callable[[torch.Tensor], list[torch.Tensor]]


class Eagle3RotaryEmbedding(LlamaRotaryEmbedding):
    """Llama's RoPE whose frequencies stay float32 under `head.to(torch.bfloat16)`.

    Rounded frequencies would misplace tokens that are far apart.
    """

    def _apply(self, fn: Callable, recurse: bool = True) -> "Eagle3RotaryEmbedding":
        exact = self.inv_freq
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != exact.dtype:
            self.inv_freq = exact.to(self.inv_freq.device)
        return self


class Eagle3Attention(nn.Module):
    """The projections of the one attention; *how* queries meet keys is the caller's `attend`.

    They read `cat(embedding, h)` and are linear, so their share of the embeddings and their share
    of h can be added up. All TTT passes see the same embeddings, each pass one slot further on, so
    the first share is computed once.

    Args:
        config: The head's config.
    """

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width = 2 * config.hidden_size
        query_width = config.num_attention_heads * self.head_dim
        key_width = config.num_key_value_heads * self.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(width, query_width, bias=bias)
        self.k_proj = nn.Linear(width, key_width, bias=bias)
        self.v_proj = nn.Linear(width, key_width, bias=bias)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=bias)

    def _projections(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Those of query, key and value, which an adapter may have replaced."""
        return self.q_proj, self.k_proj, self.v_proj

    def project(self, embeddings: torch.Tensor, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """Query, key and value [B, S, heads * D] of normed embeddings and states [B, S, H]."""
        states = torch.cat([embeddings, hidden_states], dim=-1)  # [B, S, 2H]
        return [projection(states) for projection in self._projections()]

    def share_of_embeddings(self, embeddings: torch.Tensor) -> list[torch.Tensor]:
        """What the embeddings [B, S, H] add to query, key and value, the bias included."""
        return [_embedding_share(projection, embeddings) for projection in self._projections()]

    def share_of_states(self, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """What the states [B, S, H] add to query, key and value."""
        return [_state_share(projection, hidden_states) for projection in self._projections()]

    def forward(
        self, projected: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Attend, and project the output.

        Args:
            projected: Query, key and value [B, S, heads * D].
            cos: RoPE's cosines [B, S, D].
            sin: RoPE's sines [B, S, D].
            attend: How queries meet keys.

        Returns:
            The output [B, S, H].
        """
        query, key, value = map(self._split_heads, projected)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        output = attend(query, key, value).to(value.dtype)  # [B, h, S, D]
        return self.o_proj(output.transpose(1, 2).flatten(2))  # [B, S, H]

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """[B, S, heads * D] -> [B, heads, S, D], a view."""
        batch, length, _ = states.shape
        return states.view(batch, length, -1, self.head_dim).transpose(1, 2)


def _embedding_share(projection: nn.Module, embeddings: torch.Tensor) -> torch.Tensor:
    """The projection of `cat(embeddings, 0)`."""
    width = embeddings.shape[-1]
    if type(projection) is nn.Linear:
        return F.linear(embeddings, projection.weight[:, :width], projection.bias)
    # an adapter is more than one weight matrix
    return projection(F.pad(embeddings, (0, width)))


def _state_share(projection: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """The projection of `cat(0, hidden_states)`, without its constant part."""
    width = hidden_states.shape[-1]
    if type(projection) is nn.Linear:
        return F.linear(hidden_states, projection.weight[:, width:])
    # an adapter is more than one weight matrix; its constant part is in the embeddings' share
    padded = F.pad(hidden_states, (width, 0))  # [B, S, 2H]
    constant = projection(torch.zeros_like(padded[:1, :1]))
    return projection(padded) - constant


class Eagle3DecoderLayer(nn.Module):
    """A Llama layer whose attention reads `cat(norm(embedding), norm(h))`.

    The residual stream is h.

    Args:
        config: The head's config.
    """

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.norm_before_residual = config.norm_before_residual
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hidden_norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Eagle3Attention(config)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(
        self,
        project: Project,
        hidden_states: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attend: Attend,
    ) -> torch.Tensor:
        """Run the layer.

        Args:
            project: Makes query, key and value from norm(h); it knows the embeddings.
            hidden_states: h [B, S, H].
            cos: RoPE's cosines [B, S, D].
            sin: RoPE's sines [B, S, D].
            attend: How queries meet keys.

        Returns:
            The output [B, S, H], not normed.
        """
        normed = self.hidden_norm(hidden_states)
        residual = normed if self.norm_before_residual else hidden_states
        hidden_states = residual + self.self_attn(project(normed), cos, sin, attend)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
