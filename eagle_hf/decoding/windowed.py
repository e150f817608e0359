"""Language models as drafters: a smaller one, or the target itself behind a window (MagicDec, arXiv 2408.11049).

At long contexts and large batches the target's key-value cache is what a forward waits for. A drafter that keeps only
attention sinks and a rolling window reads a cache of fixed size: even the target itself then drafts cheaply.

B batch, M newly committed tokens (padded), k expanded nodes, H hidden, S prompt slots.
"""

import inspect
import sys
from contextlib import nullcontext

import torch
from transformers import PreTrainedModel

from eagle_hf.compat import cache_inputs
from eagle_hf.decoding.cache import TreeCache, rotated
from eagle_hf.decoding.compiling import compiled
from eagle_hf.decoding.drafters import Drafter, joined, left_aligned, newest, padded_rows
from eagle_hf.decoding.masks import MaskFormat, check_trees
from eagle_hf.decoding.reading import reading_tree
from eagle_hf.decoding.snapkv import Selection
from eagle_hf.decoding.stats import Stopwatch
from eagle_hf.decoding.upload import upload
from eagle_hf.decoding.window import Window
from eagle_hf.head.configuration import TreeConfig
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import position_limit, target_logits, unwrap


class WindowedDraft:
    """`generate(assistant_model=WindowedDraft(small_model))`: a smaller causal LM with the target's vocabulary drafts.

    sinks, window: its cache keeps a text's first `sinks` tokens and its newest `window`; window=None keeps them all.
    snapkv: instead of the first tokens keep so many of the prompt's in every layer and key head, those its end attends to (SnapKV).
    gamma: tokens drafted a round, as a chain; setting `tree` drafts a tree instead, with a `plan` where its policy needs one.
    vocab_size: how many ids mean the same in both, where the models pad one vocabulary to different sizes: len(tokenizer), or the
    smaller model's size if that is less.
    `last_run` holds the last call's statistics.
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
                f"WindowedDraft was given {model!r:.60}; give an opened causal LM: load_target(name)[0]"
            )
        self.model, self.window, self.vocab_size = (
            model,
            window_of(sinks, window, snapkv),
            vocab_size,
        )
        self.tree, self.last_run, self.plan = chain_of(gamma), None, None

    @property
    def identity(self) -> str:
        """What a cost table of this drafter holds for."""
        return f"{weights_fingerprint(self.model)}, {self.window}"

    def check(self, target) -> None:
        """Raise a ValueError for a target that this model cannot draft for."""
        ours, theirs = (
            unwrap(model).config.get_text_config().vocab_size for model in (self.model, target)
        )
        if self.vocab_size is None and ours != theirs:
            raise ValueError(
                f"the draft model has {ours} tokens and the target {theirs}; if they share a tokenizer and pad its vocabulary differently, say so: "
                "WindowedDraft(model, vocab_size=len(tokenizer)); for another tokenizer use transformers' universal assisted generation: "
                "generate(assistant_model=draft, tokenizer=..., assistant_tokenizer=...)"
            )
        if self.vocab_size is not None and not 0 < self.vocab_size <= min(ours, theirs):
            raise ValueError(
                f"vocab_size is {self.vocab_size}; the draft model has {ours} tokens and the target {theirs}: give {min(ours, theirs)} at most, the ids that both have"
            )
        check_drafting(self.model, self.window)
        limit = position_limit(self.model)
        if limit < target.config.get_text_config().max_position_embeddings:
            raise ValueError(
                f"the draft model knows {limit} positions, fewer than the target; draft with a model of RoPE, or a longer one"
            )
        if self.model.device != target.device:
            raise ValueError(
                f"the target is on {target.device} and the draft model on {self.model.device}; move one"
            )

    def drafter(self, target, cache: TreeCache, watch: Stopwatch) -> Drafter:
        """Bound to a target for one call of generate."""
        return ModelDrafter(
            self.model, self.tree, watch, self.window, cache.capacity, self.vocab_size
        )


class SelfSpeculation:
    """`generate(assistant_model=SelfSpeculation())`: the target drafts with its own weights on a window of its own cache.

    sinks, window, snapkv, gamma, `tree`, `plan`, `last_run`: as in `WindowedDraft`, but there must be a window.
    """

    def __init__(
        self, sinks: int = 16, window: int = 496, gamma: int = 4, snapkv: int | None = None
    ):
        if window is None:
            raise ValueError(
                "SelfSpeculation was given window=None; on its whole cache the target drafts no faster than it decodes"
            )
        self.window, self.tree, self.last_run, self.plan = (
            window_of(sinks, window, snapkv),
            chain_of(gamma),
            None,
            None,
        )

    @property
    def identity(self) -> str:
        """What a cost table of this drafter holds for."""
        return f"the target itself, {self.window}"

    def check(self, target) -> None:
        """Raise a ValueError for a target that cannot draft for itself."""
        check_drafting(target, self.window)

    def drafter(self, target, cache: TreeCache, watch: Stopwatch) -> Drafter:
        """Bound to a target, and to the cache of its run, for one call of generate."""
        return SelfDrafter(target, cache, self.tree, watch, self.window)


def window_of(sinks: int, window: int | None, snapkv: int | None) -> Window | None:
    if snapkv is None:
        return None if window is None else Window(sinks, window)
    if window is None:
        raise ValueError(
            f"snapkv is {snapkv} and window None: with the whole cache there is nothing to select; give a window, e.g. 48"
        )
    return Window(snapkv, window, selected=True)


def chain_of(gamma: int) -> TreeConfig:
    if not isinstance(gamma, int) or gamma < 1:
        raise ValueError(
            f"gamma is {gamma!r}; it counts the tokens drafted a round and must be 1 at least"
        )
    return TreeConfig("chain", depth=gamma)


def check_drafting(model, window: Window | None) -> None:
    """Raise a ValueError for a model that cannot draft trees, or not behind this window."""
    check_trees(model)
    if window is None:
        return
    if not window.selected:
        check_window(model)
    elif (kind := unwrap(model).config.get_text_config()._attn_implementation) != "sdpa":
        raise ValueError(
            f'snapkv reads the queries of "sdpa" attention and {type(unwrap(model)).__name__} has {kind!r}; load it with "sdpa"'
        )


def check_window(model) -> None:
    """Raise a ValueError for a model whose sinks cannot be turned to where the window begins: they need Llama's RoPE in every layer."""
    decoder, config, name = (
        unwrap(model).get_decoder(),
        unwrap(model).config.get_text_config(),
        type(unwrap(model)).__name__,
    )
    rotary, apply = (
        getattr(decoder, "rotary_emb", None),
        getattr(sys.modules[type(decoder).__module__], "apply_rotary_pos_emb", None),
    )
    remedy = "draft with a whole cache: WindowedDraft(model, window=None)"
    if (
        rotary is None
        or apply is None
        or list(inspect.signature(rotary.forward).parameters) != ["x", "position_ids"]
    ):
        raise ValueError(
            f"{name} has no single rotary embedding, so its attention sinks cannot follow a window; {remedy}"
        )
    if getattr(config, "kv_lora_rank", None) or not all(
        getattr(config, "no_rope_layers", None) or [1]
    ):
        raise ValueError(f"{name} has keys that carry no position, or only in part; {remedy}")
    if (kind := (getattr(config, "rope_parameters", None) or {}).get("rope_type")) in (
        "dynamic",
        "longrope",
    ):
        raise ValueError(
            f"the RoPE of {name} is {kind!r}, whose frequencies change with the text's length; {remedy}"
        )
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = torch.linspace(-1, 1, 2 * width, device=model.device).view(1, 1, 2, width)
    cos, sin = rotary(keys, torch.tensor([[3, 4]], device=model.device))
    if cos.shape[-1] != width or not torch.allclose(
        apply(keys, keys, cos, sin)[1], rotated(keys, cos, sin)
    ):
        raise ValueError(
            f"{name} rotates a part of its keys, or pairs them in another way than Llama; {remedy}"
        )


class ModelDrafter(Drafter):
    """A causal LM that reads what the target committed and drafts on, only ids below `vocabulary` where that is given."""

    def __init__(
        self,
        model,
        tree: TreeConfig,
        watch: Stopwatch,
        window: Window | None,
        capacity: int | None = None,
        vocabulary: int | None = None,
    ):
        super().__init__(tree, watch, window, capacity)
        self.model, self.decoder = model, unwrap(model).get_decoder()
        config = unwrap(model).config.get_text_config()
        self.vocabulary, self.last_id, self.format = (
            vocabulary or config.vocab_size,
            config.vocab_size - 1,
            MaskFormat(model),
        )
        if vocabulary is not None:
            self.draft_to_target = torch.arange(vocabulary, device=model.device)
        self._forward = self.decoder if capacity is None else compiled(self.decoder, model.device)
        self.last_position = position_limit(model) - 1
        self.reads = cache_inputs(self.decoder, self.cache)

    def start(self, input_ids, visible, aux, first):
        order, counts = left_aligned(visible)
        tokens = torch.cat([input_ids.gather(1, order), torch.zeros_like(first)[:, None]], dim=1)
        self.waiting = [(counts + 1, tokens.scatter(1, counts[:, None], first[:, None]))]

    def accept(self, aux, paths, tokens):
        device = self.model.device
        self.waiting.append(
            (upload([len(row) for row in tokens], device), padded_rows(tokens, device, self.least))
        )

    def extend(self):
        counts, tokens = joined(self.waiting)
        self.waiting = []
        if self.slots.lengths is None:
            return newest(self._read_prompt(counts, tokens), counts)
        slots, positions, seen = self.slots.extend(counts, tokens.shape[1])
        return newest(self._run(tokens, positions, seen, slots), counts)

    def _read_prompt(self, counts, tokens) -> torch.Tensor:
        """Outputs [B, M, H] of prompts; the cache then holds what the window keeps of them."""
        kept = self.slots.start(counts)
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        if not (self.slots.window and self.slots.window.selected):
            self.cache.place_prompt(kept)
            return self._run(tokens, positions, None)
        selection = Selection(self.slots.window, positions < counts[:, None])
        self.cache.place_prompt(positions)
        with selection.watching():
            output = self._run(tokens, positions, None)
        for number, layer in enumerate(self.cache.layers):
            layer.keep(layer.keys, layer.values, selection.kept(number, layer.keys, kept))
        return output

    def step(self, tokens, hidden, level, ancestors):
        slots, positions, seen = self.slots.level(level, ancestors)
        return self._run(tokens, positions, seen, slots)

    def log_probs(self, hidden):
        return target_logits(self.model, hidden)[..., : self.vocabulary].float().log_softmax(-1)

    def _run(self, tokens, positions, seen, slots=None) -> torch.Tensor:
        """One forward; seen: bool [B, M, T] and the slots [B, M] to write to, None for a prompt, whose rows are padded on the right."""
        with self.watch.phase("head"):
            mask = None
            if seen is not None:
                mask = self.format(seen, positions, self.slots.keys)
                self.cache.turn_sinks(self.slots, getattr(self.decoder, "rotary_emb", None))
                self.cache.place(slots, seen.shape[-1])
            positions = positions.clamp(
                max=self.last_position
            )  # drafts past the longest row's end go unread
            tokens = tokens.clamp(max=self.last_id)  # beyond is padding that the target alone has
            inputs = dict(
                input_ids=tokens, position_ids=positions, attention_mask=mask, **self.reads
            )
            if seen is None:
                return self.decoder(**inputs).last_hidden_state
            with reading_tree():
                return self._forward(**inputs).last_hidden_state


class SelfDrafter(ModelDrafter):
    """The target itself, on the keys and values of its own committed tokens as far as the window keeps them."""

    def __init__(
        self, target, cache: TreeCache, tree: TreeConfig, watch: Stopwatch, window: Window
    ):
        super().__init__(target, tree, watch, window, cache.capacity)
        self.full, self.selection = cache, None
        self.order = None  # [B, S] the prompt's slots in the target's cache, the real ones first

    def watching(self, visible):
        if not self.slots.window.selected:
            return nullcontext()
        self.selection = Selection(self.slots.window, visible)
        return self.selection.watching()

    def start(self, input_ids, visible, aux, first):
        self.order, counts = left_aligned(visible)
        self.counts, self.prompt = counts, input_ids.shape[1]
        kept = self.order.gather(1, self.slots.start(counts))
        for number, (layer, full) in enumerate(
            zip(self.cache.with_layers(len(self.full.layers)), self.full.layers)
        ):
            layer.keep(
                full.keys,
                full.values,
                self.selection.kept(number, full.keys, kept) if self.selection else kept,
            )
        self.selection = None
        self.waiting = [(torch.ones_like(counts), first[:, None])]

    def keep_rows(self, index):
        super().keep_rows(index)
        self.order, self.counts = self.order[index], self.counts[index]

    def accept(self, aux, paths, tokens):
        """The root's keys and those of the accepted drafts come from the target's cache, where the round left them."""
        device = self.counts.device
        counts = upload([len(path) for path in paths], device)
        if not self.waiting:  # the root was read by the drafter itself; now it is copied
            self.slots.lengths = self.slots.lengths - (counts > 0).long()
        slots, positions, _ = self.slots.extend(counts, max(self.least, *map(len, paths)))
        sources = self.prompt + positions - self.counts[:, None]
        sources = sources.clamp(max=self.full.get_seq_length() - 1)  # of entries that only fill up
        for layer, full in zip(self.cache.layers, self.full.layers):
            index = sources.to(full.keys.device)[:, None, :, None].expand(
                -1, full.keys.shape[1], -1, -1
            )
            copies = [
                part.gather(2, index.expand(-1, -1, -1, part.shape[-1]))
                for part in (full.keys, full.values)
            ]
            layer.write(slots, *copies, self.slots.held.shape[1])
        self.waiting = [((counts > 0).long(), padded_rows([row[-1:] for row in tokens], device))]
