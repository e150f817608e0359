"""A smaller language model as drafter, behind a window where texts are long.

At long contexts and large batches, a forward waits for the key-value cache. A drafter that keeps
only attention sinks and a rolling window reads a cache of fixed size (MagicDec, arXiv 2408.11049).

B batch, M newly committed tokens (padded), k nodes of a level, S prompt slots, T slots in use,
H hidden.
"""

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from eagle_hf.compilation.forwards import LogitsForward
from eagle_hf.compilation.packages import KeptForward
from eagle_hf.decoding.assistants.base import Assistant, DraftContext, Drafter
from eagle_hf.decoding.assistants.windows import chain_of, check_drafting, describe, make_window
from eagle_hf.decoding.compiling import kept_forward
from eagle_hf.decoding.forward import DraftForward
from eagle_hf.decoding.masks import MaskFormat
from eagle_hf.decoding.modes import check_mode
from eagle_hf.decoding.pending import Pending, left_aligned, newest_output, padded_rows
from eagle_hf.decoding.snapkv import Selection, recorded
from eagle_hf.decoding.upload import upload
from eagle_hf.decoding.window import Window
from eagle_hf.provenance import dtype_name, weights_fingerprint
from eagle_hf.target import (
    check_adapters_outside_generate,
    context_length,
    execution_device,
    position_limit,
    target_logits,
    text_decoder,
    unwrap,
)

logger = logging.get_logger(__name__)


class WindowedDraft(Assistant):
    """`generate(assistant_model=WindowedDraft(small_model))`: a smaller causal LM drafts.

    Args:
        model: a causal LM with the target's vocabulary.
        sinks: how many of a text's first tokens its cache keeps.
        window: how many of the newest tokens it keeps; None keeps all tokens.
        gamma: tokens drafted a round, as a chain. Setting `tree` drafts a tree instead, with a
            `plan` where its policy needs one.
        snapkv: keep so many of the prompt's tokens in place of the first ones, in every layer and
            key head those that its end attends to (SnapKV).
        vocab_size: how many ids mean the same in both models, where they pad one vocabulary to
            different sizes: len(tokenizer), or the smaller model's size if that is less.

    `last_run` holds the statistics of the last call.

    Raises:
        ValueError: for a model that is none, or settings that contradict each other.
    """

    def __init__(
        self,
        model,
        sinks: int = 16,
        window: int | None = 496,
        gamma: int = 4,
        snapkv: int | None = None,
        vocab_size: int | None = None,
    ):
        if not isinstance(unwrap(model), PreTrainedModel):
            raise ValueError(
                f"WindowedDraft was given {model!r:.60}; give an opened causal LM: "
                "load_target(name)[0]"
            )
        if window is None and snapkv is not None:
            raise ValueError(
                f"snapkv is {snapkv} and window None: with the whole cache there is nothing to "
                "select; give a window, e.g. 48"
            )
        self.model = model
        self.window = None if window is None else make_window(sinks, window, snapkv)
        self.vocab_size = vocab_size
        self.tree = chain_of(gamma)

    @property
    def reads_window_only(self) -> bool:
        return self.window is not None

    @property
    def foreign_tokenizer_remedy(self) -> str:
        return (
            ", or, for a draft model with another tokenizer, pass the model itself: "
            "transformers' universal assisted generation"
        )

    def check(self, target) -> None:
        """Raise a ValueError for a target that this model cannot draft for."""
        self._check_vocabulary(target)
        check_drafting(self.model, self.window)
        check_adapters_outside_generate(self.model)
        check_mode(self.model, "draft model")
        self._name_unused_length()
        limit = position_limit(self.model)
        context = context_length(target)
        if limit < (context or 0):
            raise ValueError(
                f"the draft model knows {limit} positions, fewer than the target; draft with a "
                "model of RoPE, or a longer one"
            )
        ours = execution_device(self.model)
        theirs = execution_device(target)
        if ours != theirs:
            raise ValueError(f"the target is on {theirs} and the draft model on {ours}; move one")

    def _name_unused_length(self) -> None:
        """Say once that the draft model's own setting is not what counts."""
        config = getattr(unwrap(self.model), "generation_config", None)
        length = getattr(config, "num_assistant_tokens", None)
        if length not in (None, self.tree.depth):
            logger.warning_once(
                f"num_assistant_tokens={length} of the draft model's generation_config changes "
                "nothing: WindowedDraft drafts by its gamma and tree; give gamma, or give "
                "num_assistant_tokens to generate"
            )

    def _check_vocabulary(self, target) -> None:
        """Raise a ValueError unless the ids mean the same in both models."""
        ours = unwrap(self.model).config.get_text_config().vocab_size
        theirs = unwrap(target).config.get_text_config().vocab_size
        if self.vocab_size is None:
            if ours != theirs:
                raise ValueError(
                    f"the draft model has {ours} tokens and the target {theirs}; if they share a "
                    "tokenizer and pad its vocabulary differently, say so: "
                    "WindowedDraft(model, vocab_size=len(tokenizer)); for another tokenizer use "
                    "transformers' universal assisted generation: "
                    "generate(assistant_model=draft, tokenizer=..., assistant_tokenizer=...)"
                )
        elif not 0 < self.vocab_size <= min(ours, theirs):
            raise ValueError(
                f"vocab_size is {self.vocab_size}; the draft model has {ours} tokens and the "
                f"target {theirs}: give {min(ours, theirs)} at most, the ids that both have"
            )

    def drafter_facts(self, target) -> dict[str, str]:
        return {
            "drafter_fingerprint": f"{weights_fingerprint(self.model)}, {describe(self.window)}",
            "drafter_dtype": dtype_name(self.model),
        }

    def drafter(self, context: DraftContext) -> "ModelDrafter":
        return ModelDrafter(self.model, context, self.window, self.vocab_size)


class ModelDrafter(Drafter):
    """A causal LM that reads what the target committed, and drafts on.

    Args:
        model: the causal LM.
        context: of the run.
        window: what its cache keeps.
        vocabulary: ids from this one on are never drafted; None drafts all.
    """

    def __init__(
        self, model, context: DraftContext, window: Window | None, vocabulary: int | None = None
    ):
        super().__init__(context, window)
        config = unwrap(model).config.get_text_config()
        self.model = model
        self.decoder = text_decoder(model)
        self.device = execution_device(model)
        self.vocabulary = vocabulary or config.vocab_size
        if vocabulary is not None:
            self.draft_to_target = torch.arange(vocabulary, device=self.device)
        self._rotary = getattr(self.decoder, "rotary_emb", None)
        self._mask_format = MaskFormat(model)
        keeps_size = self.capacity is not None
        self._forward = DraftForward(model, self.cache, keeps_size, context.tree.compile)
        self._kept_logits: KeptForward | None = None
        if context.tree.compile and not keeps_size:
            self._kept_logits = kept_forward(LogitsForward(model))
        self._last_id = config.vocab_size - 1
        self._last_position = position_limit(model) - 1

    def start(self, input_ids, visible, aux, first, selection, shift=None):
        order, counts = left_aligned(visible)
        room = torch.zeros_like(first)[:, None]
        tokens = torch.cat([input_ids.gather(1, order), room], dim=1)
        tokens = tokens.scatter(1, counts[:, None], first[:, None])
        self.pending = [Pending(counts + 1, tokens)]

    def accept(self, aux, paths, tokens):
        counts = upload([len(emitted) for emitted in tokens], self.device)
        self.pending.append(Pending(counts, padded_rows(tokens, self.device, self.least_width)))

    def extend(self):
        pending = self.take_pending()
        if not self.slots.has_started:
            output = self._read_prompt(pending.counts, pending.tokens)
        else:
            placed = self.slots.extend(pending.counts, pending.width)
            output = self._read_nodes(pending.tokens, *placed)
        return newest_output(output, pending.counts)

    def step(self, tokens, hidden, level, ancestors):
        return self._read_nodes(tokens, *self.slots.level(level, ancestors))

    def log_probs(self, hidden):
        if self._kept_logits is None:
            logits = target_logits(self.model, hidden)
        else:
            logits = self._kept_logits.by_row(hidden)
        return logits[..., : self.vocabulary].float().log_softmax(-1)

    def _read_prompt(self, counts, tokens) -> torch.Tensor:
        """Outputs [B, M, H] of prompts; the cache then holds what the window keeps of them."""
        kept = self.slots.start(counts)
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        window = self.slots.window
        if window is None or not window.selected:
            return self._run_prompt(tokens, positions, kept)
        selection = Selection(window, positions < counts[:, None])
        with recorded(selection):
            output = self._run_prompt(tokens, positions, positions)
        for index, layer in enumerate(self.cache.layers):
            layer.keep(layer.keys, layer.values, selection.kept(index, layer.keys, kept))
        return output

    def _run_prompt(self, tokens, positions, kept) -> torch.Tensor:
        with self.watch.phase("head"):
            tokens, positions = self._clamped(tokens, positions)
            return self._forward.read_prompt(tokens, positions, kept)

    def _read_nodes(self, tokens, slots, positions, seen) -> torch.Tensor:
        """Outputs [B, M, H] of tokens that go to `slots` [B, M] and see bool [B, M, T]."""
        with self.watch.phase("head"):
            mask = self._mask_format(seen, positions, self.slots.keys)
            self.cache.turn_sinks(self.slots, self._rotary)
            tokens, positions = self._clamped(tokens, positions)
            return self._forward.read_nodes(tokens, positions, mask, slots, seen.shape[-1])

    def _clamped(self, tokens, positions) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and positions that the model knows.

        Drafts beyond the longest row's end go unread, and larger ids are padding of the target's.
        """
        if self.slots.offset is not None:
            positions = positions + self.slots.offset[:, None]
        return tokens.clamp(max=self._last_id), positions.clamp(max=self._last_position)
