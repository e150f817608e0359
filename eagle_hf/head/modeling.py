"""`Eagle3DraftHead`: one decoder layer that continues the target's own hidden states.

EAGLE-3, arXiv 2503.01840. Embeddings are the target's and are passed in. Slot p holds the target's
aux hidden states at token p and the embedding of token p + 1, and predicts token p + 2:

    slot                  0    1    2
    aux hidden states     t0   t1   t2
    embedding             t1   t2   t3
    predicts, pass 0      t2   t3   t4
    predicts, pass 1      t3   t4   -      embeddings shifted left by one

B batch, S sequence, H hidden, U draft vocabulary, V target vocabulary.
"""

from functools import partial
from typing import cast

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from eagle_hf.compat import attention_implementation
from eagle_hf.head.attention import ttt_attention
from eagle_hf.head.base import DraftHead
from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.layers import Attend, Eagle3DecoderLayer, Eagle3RotaryEmbedding, Project
from eagle_hf.head.packing import conversation_lengths
from eagle_hf.head.vocabulary import draft_to_target_ids, vocabulary_buffers


class Eagle3DraftHead(DraftHead):
    """An EAGLE-3 draft head; give it to `target.generate(assistant_model=head)`.

    Args:
        config: Its config; see `Eagle3Config.from_target`.
    """

    d2t: torch.Tensor
    t2d: torch.Tensor
    base_model_prefix = ""
    main_input_name = "aux_hidden_states"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _no_split_modules = ["Eagle3DecoderLayer"]

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__(config)
        width = cast(int, config.target_hidden_size)
        drafted = cast(int, config.draft_vocab_size)
        states = config.num_aux_hidden_states
        if config.fc_norm:
            norms = [LlamaRMSNorm(width, config.rms_norm_eps) for _ in range(states)]
            self.fc_norm = nn.ModuleList(norms)
        self.fc = nn.Linear(states * width, config.hidden_size, bias=False)
        self.midlayer = Eagle3DecoderLayer(config)
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, drafted, bias=False)
        self.rotary_emb = Eagle3RotaryEmbedding(config)
        self.gradient_checkpointing = False
        # engines refuse the buffers where the draft vocabulary is the whole one
        if drafted < config.vocab_size:
            d2t = torch.zeros(drafted, dtype=torch.long)
            t2d = torch.arange(config.vocab_size) < drafted
            self.register_buffer("d2t", d2t)
            self.register_buffer("t2d", t2d)
        self.post_init()

    @property
    def draft_to_target(self) -> torch.Tensor:
        """Target ids [U] of the draft vocabulary."""
        if self.config.draft_vocab_size == self.config.vocab_size:
            return torch.arange(self.config.vocab_size, device=self.lm_head.weight.device)
        return draft_to_target_ids(self.d2t)

    def set_draft_vocabulary(self, target_ids: torch.Tensor) -> None:
        """Set which tokens the head can propose.

        Args:
            target_ids: Their target ids [U], ascending.

        Raises:
            ValueError: There are more or fewer than `config.draft_vocab_size`, or they do not
                ascend.
        """
        if len(target_ids) != self.config.draft_vocab_size:
            raise ValueError(
                f"{len(target_ids)} draft vocabulary ids were given but draft_vocab_size is "
                f"{self.config.draft_vocab_size}; give one id per row of the LM head"
            )
        target_ids = target_ids.to(self.lm_head.weight.device)
        d2t, t2d = vocabulary_buffers(target_ids, self.config.vocab_size)
        if self.config.draft_vocab_size < self.config.vocab_size:
            self.d2t.copy_(d2t)
            self.t2d.copy_(t2d)

    def resize_vocabulary(self, vocab_size: int) -> None:
        """Follow a target whose embeddings were resized; what the head drafts stays.

        The ids that old and new target share must mean the same. The others are never drafted.

        Args:
            vocab_size: Tokens of the resized target.

        Raises:
            ValueError: The target lacks a token that the head drafts.
        """
        target_ids = self.draft_to_target
        last = int(target_ids[-1])
        if last >= vocab_size:
            raise ValueError(
                f"vocab_size is {vocab_size} but the head drafts tokens up to {last}; give "
                f"{last + 1} at least, or use the head trained for this target"
            )
        d2t, t2d = vocabulary_buffers(target_ids, vocab_size)
        self.config.vocab_size = vocab_size
        if len(target_ids) < vocab_size:
            self.register_buffer("d2t", d2t)
            self.register_buffer("t2d", t2d)
        elif hasattr(self, "d2t"):  # the draft vocabulary is the whole one now
            del self.d2t
            del self.t2d

    def get_output_embeddings(self) -> nn.Module:
        """The LM head, which PEFT may wrap."""
        return self.lm_head

    def get_input_embeddings(self) -> None:
        """None: they are the target's. PEFT asks when the LM head carries an adapter."""
        return None

    def fuse(self, aux_hidden_states: torch.Tensor) -> torch.Tensor:
        """Make the first pass's input from the target's states.

        Args:
            aux_hidden_states: [B, S, 3H], the states of all aux layers side by side.

        Returns:
            [B, S, H].
        """
        if self.config.fc_norm:
            # EAGLE-3.1: each layer's state has a norm of its own
            states = aux_hidden_states.chunk(self.config.num_aux_hidden_states, dim=-1)
            normed = [norm(state) for norm, state in zip(self.fc_norm, states, strict=True)]
            aux_hidden_states = torch.cat(normed, dim=-1)  # [B, S, 3H]
        return self.fc(aux_hidden_states)

    def step(
        self,
        inputs_embeds: torch.Tensor,
        hidden_states: torch.Tensor,
        position_ids: torch.Tensor,
        attend: Attend,
    ) -> torch.Tensor:
        """Run one pass at decoding.

        Args:
            inputs_embeds: The target's embeddings [B, S, H] of the next tokens.
            hidden_states: The last pass's output [B, S, H], or that of `fuse`.
            position_ids: RoPE positions [B or 1, S].
            attend: How queries meet keys.

        Returns:
            What the next pass reads, and `logits` too [B, S, H].
        """
        embeddings = self.midlayer.input_layernorm(inputs_embeds)
        project = partial(self.midlayer.self_attn.project, embeddings)
        return self._run_layer(project, hidden_states, position_ids, attend)

    def _run_layer(
        self,
        project: Project,
        hidden_states: torch.Tensor,
        position_ids: torch.Tensor,
        attend: Attend,
    ) -> torch.Tensor:
        """The decoder layer, and the output norm of EAGLE-3.1 behind it."""
        cos, sin = self.rotary_emb(hidden_states, position_ids)  # [B or 1, S, D]
        output = self.midlayer(project, hidden_states, cos, sin, attend)
        return self.norm(output) if self.config.norm_output else output

    def lm_head_input(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return what the LM head reads of a pass's output [..., H]."""
        return hidden_states if self.config.norm_output else self.norm(hidden_states)

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the draft logits [..., U] of a pass's output [..., H]."""
        return self.lm_head(self.lm_head_input(hidden_states))

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        aux_hidden_states: torch.Tensor,
        ttt_length: int = 1,
        position_ids: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Unroll training-time test (paper, section 3.2).

        Pass k reads its predecessor's output. Its tokens shift left by k and its RoPE positions
        advance by k, so at slot p it predicts token p + 2 + k. The last k slots of pass k have no
        token and must not be learnt from.

        Args:
            inputs_embeds: The target's embeddings [B, S, H]; slot p holds that of token p + 1.
            aux_hidden_states: The target's states [B, S, 3H]; slot p holds those at token p.
            ttt_length: How many passes to unroll.
            position_ids: [1, S], of several conversations that lie in one row, each starting from
                0 again.

        Returns:
            The output [B, S, H] of each pass.
        """
        lengths = None
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        else:
            lengths = conversation_lengths(position_ids)

        # 1) what all passes share
        hidden_states = self.fuse(aux_hidden_states)  # [B, S, H]
        embeddings = self.midlayer.input_layernorm(inputs_embeds)  # [B, S, H]
        embedded = self.midlayer.self_attn.share_of_embeddings(embeddings)
        run_pass = partial(self._ttt_pass, embedded, position_ids, lengths)
        if self.gradient_checkpointing and self.training:
            run_pass = partial(self._gradient_checkpointing_func, run_pass)

        # 2) the passes, each on the keys and values of all before it
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        outputs = []
        for ttt_step in range(ttt_length):
            hidden_states, key, value = run_pass(ttt_step, hidden_states, *keys, *values)
            keys.append(key)
            values.append(value)
            outputs.append(hidden_states)
        return outputs

    def _ttt_pass(
        self,
        embedded: list[torch.Tensor],
        position_ids: torch.Tensor,
        lengths: list[int] | None,
        ttt_step: int,
        hidden_states: torch.Tensor,
        *keys_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One pass of training-time test: its output, its keys and its values.

        The keys of all earlier passes come first, then their values: gradient checkpointing looks
        after tensors that are arguments themselves.
        """
        keys = list(keys_values[:ttt_step])
        values = list(keys_values[ttt_step:])

        def project(normed: torch.Tensor) -> list[torch.Tensor]:
            shares = self.midlayer.self_attn.share_of_states(normed)
            projected = []
            for embedding_share, state_share in zip(embedded, shares, strict=True):
                projected.append(_shift_left(embedding_share, ttt_step) + state_share)
            return projected

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            keys.append(key)
            values.append(value)
            implementation = attention_implementation(self.config)
            return ttt_attention(query, keys, values, implementation, lengths)

        output = self._run_layer(project, hidden_states, position_ids + ttt_step, attend)
        return output, keys[-1], values[-1]


def _shift_left(states: torch.Tensor, steps: int) -> torch.Tensor:
    """States [B, S, W] moved to the left by some slots, with zeros in the last ones."""
    zeros = min(steps, states.shape[1])
    return nn.functional.pad(states[:, steps:], (0, 0, 0, zeros))
