"""`Eagle3DraftHead`: one decoder layer that continues the target's own hidden states (EAGLE-3, arXiv 2503.01840).

B batch, S sequence, H hidden, U draft vocabulary, V target vocabulary. Slot p holds the target's states at token p
and the embedding of token p + 1, and predicts token p + 2. Embeddings are the target's and are passed in.
Module names are the names on disk, so weights are never renamed.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from eagle_hf.head.attention import ttt_attention
from eagle_hf.head.configuration import Acceptance, Eagle3Config, TreeConfig
from eagle_hf.head.opening import open_head
from eagle_hf.head.sidecars import choose_sidecars, copy_sidecars
from eagle_hf.head.vocabulary import draft_to_target_ids, vocabulary_buffers

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Eagle3RotaryEmbedding(LlamaRotaryEmbedding):
    """Llama's RoPE whose frequencies stay float32 under `head.to(torch.bfloat16)`: rounded, they misplace far tokens."""

    def _apply(self, fn, recurse=True):
        exact = self.inv_freq
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != exact.dtype:
            self.inv_freq = exact.to(self.inv_freq.device)
        return self


class Eagle3Attention(nn.Module):
    """Projections of the one attention; *how* queries meet keys is the caller's `attend(query, key, value)`.

    They read `cat(embedding, h)`, and are linear: their share of the embeddings and their share of h can be added up.
    TTT passes see the same embeddings one slot further on, so they compute the first share once.
    """

    def __init__(self, config: Eagle3Config):
        super().__init__()
        self.head_dim = config.head_dim
        width, bias = 2 * config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, config.num_attention_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(
            config.num_attention_heads * self.head_dim, config.hidden_size, bias=bias
        )

    def project(self, embeddings: torch.Tensor, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """Query, key and value [B, S, heads * width]."""
        states = torch.cat([embeddings, hidden_states], dim=-1)
        return [projection(states) for projection in (self.q_proj, self.k_proj, self.v_proj)]

    def share(self, embeddings=None, hidden_states=None) -> list[torch.Tensor]:
        """What query, key and value owe to one of the two; the bias belongs to the embeddings."""
        return [
            _share(projection, embeddings, hidden_states)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]

    def forward(
        self, projected: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        batch, length, _ = projected[0].shape
        query, key, value = (
            part.view(batch, length, -1, self.head_dim).transpose(1, 2) for part in projected
        )
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        output = attend(query, key, value).to(value.dtype)
        return self.o_proj(output.transpose(1, 2).reshape(batch, length, -1))


def _share(projection: nn.Module, embeddings, hidden_states) -> torch.Tensor:
    first = embeddings is not None
    states = embeddings if first else hidden_states
    width = states.shape[-1]
    if type(projection) is nn.Linear:
        weight = projection.weight[:, :width] if first else projection.weight[:, width:]
        return nn.functional.linear(states, weight, projection.bias if first else None)
    whole = nn.functional.pad(
        states, (0, width) if first else (width, 0)
    )  # an adapter: more than a weight matrix
    return (
        projection(whole)
        if first
        else projection(whole) - projection(torch.zeros_like(whole[:1, :1]))
    )


class Eagle3DecoderLayer(nn.Module):
    """A Llama layer whose attention reads `cat(norm(embedding), norm(h))`; the residual stream is h."""

    def __init__(self, config: Eagle3Config):
        super().__init__()
        self.norm_before_residual = config.norm_before_residual
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hidden_norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Eagle3Attention(config)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(self, project: Callable, hidden_states, cos, sin, attend: Attend) -> torch.Tensor:
        """project: norm(h) -> query, key and value, the embeddings taken into account."""
        normed = self.hidden_norm(hidden_states)
        residual = normed if self.norm_before_residual else hidden_states
        hidden_states = residual + self.self_attn(project(normed), cos, sin, attend)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


def conversation_lengths(position_ids: torch.Tensor) -> list[int]:
    """Tokens of each conversation of a packed row, from position_ids [1, S] that start from 0 with every conversation."""
    if position_ids.shape[0] != 1 or position_ids[0, 0] != 0:
        raise ValueError(
            f"position_ids of shape {list(position_ids.shape)} starting at {int(position_ids[0, 0])} arrived; conversations are "
            "packed into one row [1, S] that starts at position 0"
        )
    starts = (position_ids[0] == 0).nonzero()[:, 0].tolist()
    return [end - start for start, end in zip(starts, starts[1:] + [position_ids.shape[1]])]


class Eagle3DraftHead(PreTrainedModel):
    """An EAGLE-3 draft head; give it to `target.generate(assistant_model=head)`."""

    config: Eagle3Config
    config_class = Eagle3Config
    base_model_prefix = ""
    main_input_name = "aux_hidden_states"
    dialect = "eagle_hf"  # of the folder it was opened from
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _no_split_modules = ["Eagle3DecoderLayer"]

    def __init__(self, config: Eagle3Config):
        super().__init__(config)
        width = config.target_hidden_size
        if config.fc_norm:
            norms = [
                LlamaRMSNorm(width, config.rms_norm_eps)
                for _ in range(config.num_aux_hidden_states)
            ]
            self.fc_norm = nn.ModuleList(norms)
        self.fc = nn.Linear(config.num_aux_hidden_states * width, config.hidden_size, bias=False)
        self.midlayer = Eagle3DecoderLayer(config)
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
        self.rotary_emb = Eagle3RotaryEmbedding(config)
        self.last_run = self.plan = (
            None  # DecodingStats of the last generate; the planning.plan.Plan of policies that need one
        )
        self.tree_by_machine = False  # whether trees are chosen by what this machine is measured to do; see decoding/automatic.py
        self.gradient_checkpointing = False
        if (
            config.draft_vocab_size < config.vocab_size
        ):  # engines refuse the buffers at full vocabulary
            self.register_buffer("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.long))
            self.register_buffer("t2d", torch.arange(config.vocab_size) < config.draft_vocab_size)
        self.post_init()

    @property
    def draft_to_target(self) -> torch.Tensor:
        """Target ids [U] of the draft vocabulary."""
        if self.config.draft_vocab_size == self.config.vocab_size:
            return torch.arange(self.config.vocab_size, device=self.lm_head.weight.device)
        return draft_to_target_ids(self.d2t)

    def set_draft_vocabulary(self, target_ids: torch.Tensor) -> None:
        """Let the draft vocabulary be these ascending target ids [U]."""
        if len(target_ids) != self.config.draft_vocab_size:
            raise ValueError(
                f"{len(target_ids)} draft vocabulary ids were given but draft_vocab_size is "
                f"{self.config.draft_vocab_size}; give one id per row of the LM head"
            )
        d2t, t2d = vocabulary_buffers(
            target_ids.to(self.lm_head.weight.device), self.config.vocab_size
        )
        if self.config.draft_vocab_size < self.config.vocab_size:
            self.d2t.copy_(d2t)
            self.t2d.copy_(t2d)

    @property
    def tree(self) -> TreeConfig:
        """How drafts are shaped; saved with the head. Setting it ends the choice by machine."""
        return self.config.tree

    @tree.setter
    def tree(self, tree: TreeConfig):
        self.config.tree = tree
        self.tree_by_machine = False

    @property
    def acceptance(self) -> Acceptance | None:
        """How often the head's guesses are taken, where that was measured; saved with the head."""
        return self.config.acceptance

    @acceptance.setter
    def acceptance(self, acceptance: Acceptance):
        self.config.acceptance = acceptance

    @property
    def window(self) -> tuple[int, int] | None:
        """(sinks, newest tokens) that drafting sees of a text, None for all; saved with the head. See Eagle3Config.window."""
        return self.config.window

    @window.setter
    def window(self, window: tuple[int, int] | None):
        self.config.window = window

    def get_output_embeddings(self):
        return self.lm_head

    def get_input_embeddings(self):
        """None: they are the target's, and passed in. PEFT asks when the LM head carries an adapter."""
        return None

    def fuse(self, aux_hidden_states: torch.Tensor) -> torch.Tensor:
        """First-pass input [B, S, H] from the concatenated target states [B, S, 3H]."""
        if self.config.fc_norm:
            states = aux_hidden_states.chunk(self.config.num_aux_hidden_states, dim=-1)
            aux_hidden_states = torch.cat(
                [norm(state) for norm, state in zip(self.fc_norm, states)], dim=-1
            )
        return self.fc(aux_hidden_states)

    def step(self, inputs_embeds, hidden_states, position_ids, attend: Attend) -> torch.Tensor:
        """One pass [B, S, H] -> [B, S, H]: what the next pass reads, and `logits` too."""
        embeddings = self.midlayer.input_layernorm(inputs_embeds)
        return self._pass(
            partial(self.midlayer.self_attn.project, embeddings),
            hidden_states,
            position_ids,
            attend,
        )

    def _pass(self, project: Callable, hidden_states, position_ids, attend: Attend) -> torch.Tensor:
        cos, sin = self.rotary_emb(hidden_states, position_ids)
        output = self.midlayer(project, hidden_states, cos, sin, attend)
        return self.norm(output) if self.config.norm_output else output

    def lm_head_input(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What the LM head reads of the output of `step` [..., H]."""
        return hidden_states if self.config.norm_output else self.norm(hidden_states)

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Draft logits [..., U] of the output of `step` [..., H]."""
        return self.lm_head(self.lm_head_input(hidden_states))

    def forward(
        self, inputs_embeds, aux_hidden_states, ttt_length: int = 1, position_ids=None
    ) -> list[torch.Tensor]:
        """Unroll training-time test: the output [B, S, H] of each of `ttt_length` passes (paper, section 3.2).

        inputs_embeds [B, S, H]: slot p holds the target's embedding of token p + 1.
        aux_hidden_states [B, S, 3H]: slot p holds the target's three states at token p.
        position_ids [1, S]: of several conversations that lie in one row, each starting from 0 again.
        Pass k reads its predecessor's output; its tokens shift left by k and its RoPE positions advance by k, so at
        slot p it predicts token p + 2 + k. The last k slots of pass k have no token and must not be learnt from.
        """
        size, lengths = inputs_embeds.shape[1], None
        if position_ids is None:
            position_ids = torch.arange(size, device=inputs_embeds.device)[None]
        else:
            lengths = conversation_lengths(position_ids)
        hidden_states, outputs, past = self.fuse(aux_hidden_states), [], []
        attention = self.midlayer.self_attn
        embedded = attention.share(embeddings=self.midlayer.input_layernorm(inputs_embeds))

        def run_pass(ttt_step, hidden_states, *past):
            keys, values = list(past[0::2]), list(past[1::2])

            def project(normed):
                shifted = [
                    nn.functional.pad(part[:, ttt_step:], (0, 0, 0, min(ttt_step, size)))
                    for part in embedded
                ]
                return [
                    ours + theirs
                    for ours, theirs in zip(shifted, attention.share(hidden_states=normed))
                ]

            def attend(query, key, value):
                keys.append(key)
                values.append(value)
                return ttt_attention(query, keys, values, self.config._attn_implementation, lengths)

            return (
                self._pass(project, hidden_states, position_ids + ttt_step, attend),
                keys[-1],
                values[-1],
            )

        for ttt_step in range(ttt_length):
            if self.gradient_checkpointing and self.training:
                hidden_states, *own = self._gradient_checkpointing_func(
                    run_pass, ttt_step, hidden_states, *past
                )
            else:
                hidden_states, *own = run_pass(ttt_step, hidden_states, *past)
            past += own
            outputs.append(hidden_states)
        return outputs

    def save_pretrained(
        self, save_directory, is_main_process=True, state_dict=None, push_to_hub=False, **kwargs
    ):
        """The layout that vLLM and SGLang load, the head's plan and what else lies beside it: see sidecars.py."""
        if push_to_hub:  # it would write transformers' own card over the head's
            raise ValueError(
                'save_pretrained was called with push_to_hub=True; save first, then call head.push_to_hub("user/name")'
            )
        beside = (
            choose_sidecars(self, save_directory, state_dict or self.state_dict())
            if is_main_process
            else {}
        )
        super().save_pretrained(
            save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs
        )
        copy_sidecars(beside, save_directory)
        if self.plan is not None and is_main_process:
            self.plan.save(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, tree: TreeConfig | str = "auto", **kwargs
    ):
        """Open a saved head of any dialect (dialects.DIALECTS); `head.dialect` says of which, saved again it is ours.

        Args:
            pretrained_model_name_or_path: a folder or hub id.
            tree: "auto": what a few tokens cost on this machine is measured at the first call of generate, and drafts are
                chosen by it, plain decoding included (decoding/automatic.py). "saved": the tree saved with the head. Or
                a TreeConfig. A saved tree of a fixed shape, compiled, with rejection or with a plan is kept by "auto".

        Raises:
            ValueError, OSError: for what is no head. Every weight must be there and none may be left over; pickles that
                are more than tensors are refused.
        """
        if not isinstance(tree, TreeConfig) and tree not in ("auto", "saved"):
            raise ValueError(f'tree is {tree!r}; give "auto", "saved" or an eagle_hf.TreeConfig')
        opened = open_head(cls, pretrained_model_name_or_path, kwargs)
        loaded = super().from_pretrained(
            None, *args, config=opened.config, state_dict=opened.weights, **kwargs
        )
        head = loaded[0] if isinstance(loaded, tuple) else loaded
        head.name_or_path = head.config.name_or_path = str(pretrained_model_name_or_path)
        head.dialect = opened.dialect
        if isinstance(tree, TreeConfig):
            head.tree = tree
        head.tree_by_machine = tree == "auto" and head.tree.is_replaceable
        return loaded
