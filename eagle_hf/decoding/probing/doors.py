"""A probe's trees, read through the doors that decoding uses.

B rows, S prompt slots, N nodes, H hidden, V vocabulary.
"""

from functools import partial

import torch

from eagle_hf.compat import prepare_inputs, take_cache
from eagle_hf.decoding.caches.drafter import DraftCache
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.chunks import read_chunks
from eagle_hf.decoding.forward import DraftForward, TargetForward
from eagle_hf.decoding.masks import MaskFormat, TreeMask, prompt_positions
from eagle_hf.decoding.pending import left_aligned, newest_output, padded_rows
from eagle_hf.decoding.probing.text import KEPT, LEVELS, Text, settings
from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.window import SlotMap
from eagle_hf.target import target_logits

ROOM = 64  # tokens that a row may become; none of the texts is as long


def verified_logits(model, text: Text) -> list[torch.Tensor]:
    """The logits [B, N, V] of both trees, read as a target verifies them.

    generate itself prepares the prompt, as it does for a call with an assistant.
    """
    read = partial(_read_trees, text)
    return model.generate(
        text.prompts, attention_mask=text.mask, custom_generate=read, **settings(steps=1)
    )


def _read_trees(text: Text, model, input_ids, generation_config=None, **inputs):
    """What generate returns: the logits [B, N, V] of both trees."""
    cache = TargetCache(limit=ROOM)
    inputs, prepared = _prepared(model, input_ids, cache, inputs)
    positions = prompt_positions(input_ids, inputs, prepared)
    masks = TreeMask(model, input_ids, inputs.get("attention_mask"), positions)
    forward = TargetForward(model, cache)
    forward.read_prompt(**prepared)
    ends = [input_ids.shape[1]] * len(input_ids)
    logits = []
    for turn in range(2):
        tree = text.tree(turn)
        mask, positions = masks.for_tree(tree, ends, ROOM)
        logits.append(forward.read_nodes(tree.tokens, positions, mask, base=max(ends)).logits)
        cache.commit(max(ends), ends, [list(nodes) for nodes in KEPT])
        ends = [end + len(nodes) for end, nodes in zip(ends, KEPT, strict=True)]
    return logits


def prompt_logits(model, text: Text, rows: int, size: int | None) -> torch.Tensor:
    """The logits [rows, V] at the ends of the first prompts.

    generate itself prepares them, as in `verified_logits`.

    size: how many of their tokens are read at a time; None reads the whole.
    """
    return model.generate(
        text.prompts[:rows],
        attention_mask=text.mask[:rows],
        custom_generate=partial(_read_prompt, size),
        **settings(steps=1),
    )


def _read_prompt(size: int | None, model, input_ids, generation_config=None, **inputs):
    """What generate returns: the logits [B, V] at the prompts' ends."""
    cache = TargetCache(limit=ROOM)
    _, prepared = _prepared(model, input_ids, cache, inputs)
    forward = TargetForward(model, cache)
    if size is None:
        return forward.read_prompt(**prepared).logits[:, -1]
    return read_chunks(forward, prepared, size).logits[:, -1]


def _prepared(model, input_ids, cache: TargetCache, inputs: dict) -> tuple[dict, dict]:
    """What generate has prepared, and the same as the model's forward takes it, without caches."""
    for name in ("logits_processor", "stopping_criteria"):
        inputs.pop(name)
    _, inputs = take_cache(inputs)
    _, prepared = take_cache(prepare_inputs(model, input_ids, cache, inputs))
    return inputs, prepared


def drafted_logits(model, text: Text) -> list[torch.Tensor]:
    """The logits [B, N, V] of both trees, read as a draft model reads what it drafts."""
    reader = DraftReader(model)
    logits = [reader.read_tree(text.tree(0), *_prompt_and_root(text))]
    logits.append(reader.read_tree(text.tree(1), *_kept_and_root(text)))
    return logits


def _prompt_and_root(text: Text) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B, S + 1] of the prompts with the first roots, and how many are real [B]."""
    order, counts = left_aligned(text.mask.bool())
    tokens = torch.cat([text.prompts.gather(1, order), text.prompts[:, :1]], dim=1)
    return tokens.scatter(1, counts[:, None], text.nodes[0, :, :1]), counts + 1


def _kept_and_root(text: Text) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B, M] of the drafts kept with the second roots, and how many are real [B]."""
    rows = []
    for row, kept in enumerate(KEPT):
        drafts = text.nodes[0, row, list(kept[1:])]
        rows.append([*drafts.tolist(), int(text.nodes[1, row, 0])])
    device = text.nodes.device
    counts = torch.tensor([len(tokens) for tokens in rows], device=device)
    return padded_rows(rows, device), counts


class DraftReader:
    """A language model that reads one tree after the other, as `ModelDrafter` does."""

    def __init__(self, model):
        self.model = model
        self.cache = DraftCache()
        self.slots = SlotMap(None, most_new=len(KEPT[0]))
        self.format = MaskFormat(model)
        self.forward = DraftForward(model, self.cache)

    def read_tree(self, tree: Tree, tokens: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The logits [B, N, V] of a tree behind tokens [B, M], of which `counts` are real.

        The root is the last of these.
        """
        if self.slots.has_started:
            output = self._read(tokens, *self.slots.extend(counts, tokens.shape[1]))
        else:
            kept = self.slots.start(counts)
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
            output = self.forward.read_prompt(tokens, positions, kept)
        outputs = [newest_output(output, counts)[:, None]]  # [B, 1, H]
        for level, nodes in enumerate(LEVELS):
            last = nodes[-1] + 1
            ancestors = tree.ancestors[:, nodes[0] : last, 1:last]
            placed = self.slots.level(level, ancestors)
            outputs.append(self._read(tree.tokens[:, nodes[0] : last], *placed))
        return target_logits(self.model, torch.cat(outputs, dim=1))

    def _read(self, tokens, slots, positions, seen) -> torch.Tensor:
        """Outputs [B, M, H] of tokens that go to `slots` [B, M] and see bool [B, M, T]."""
        mask = self.format(seen, positions, self.slots.keys)
        return self.forward.read_nodes(tokens, positions, mask, slots, seen.shape[-1])
