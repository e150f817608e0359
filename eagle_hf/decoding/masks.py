"""What a tree's nodes may see: the row's committed tokens and their own ancestors, by position where layers slide.

B batch, N nodes, T cache slots, the tree's own among them. A mask is True where attention is allowed.
"""

import inspect

import torch

from eagle_hf.compat import is_recurrent
from eagle_hf.decoding.upload import upload
from eagle_hf.target import position_limit, unwrap

ATTENTION_KINDS = {"full_attention", "sliding_attention"}
SUPPORTED_ATTENTION = ("sdpa", "eager")


def layer_kinds(config) -> set[str]:
    """The kinds of attention in a target; an unknown kind is returned as it is."""
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:
        kinds = {
            "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
        }
    return kinds


def check_trees(model) -> None:
    """Raise a ValueError for a model that cannot read trees: recurrent layers, an attention without masks, no positions."""
    model = unwrap(model)
    config, name, kinds = (
        model.config.get_text_config(),
        type(model).__name__,
        layer_kinds(model.config.get_text_config()),
    )
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{name} is an encoder-decoder model; draft trees need a decoder-only causal LM"
        )
    if is_recurrent(model) or kinds - ATTENTION_KINDS:
        raise ValueError(
            f"{name} has layers of the kind {sorted(kinds - ATTENTION_KINDS) or 'recurrent'}: their state cannot be "
            "rolled back to an accepted branch; use a target whose layers are all (sliding) attention"
        )
    if config._attn_implementation not in SUPPORTED_ATTENTION:
        raise ValueError(
            f"the attn_implementation of {name} is {config._attn_implementation!r}, which takes no tree mask; "
            f'load it with attn_implementation="sdpa" (or call set_attn_implementation("sdpa"))'
        )
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{name}.forward takes no position_ids, so the nodes of a tree cannot be placed; use another target"
        )


class MaskFormat:
    """How a model takes a mask of its own: bool or additive [B, 1, N, T], or a dictionary of these by layer kind."""

    def __init__(self, model):
        config = unwrap(model).config.get_text_config()
        self.kinds, self.window = layer_kinds(config), getattr(config, "sliding_window", None)
        self.additive = (
            config._attn_implementation == "eager"
        )  # eager adds its mask: booleans would be summed
        self.dtype = model.dtype

    def __call__(self, seen: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor):
        """From bool [B, N, T]: which of T keys at positions `keys` [B, T] the N tokens at `positions` [B, N] see."""
        masks = {"full_attention": seen[:, None]}
        if "sliding_attention" in self.kinds:
            reach = positions[:, :, None] - keys[:, None]
            masks["sliding_attention"] = (seen & (reach < self.window))[:, None]
        masks = {kind: self._typed(masks[kind]) for kind in self.kinds}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _typed(self, mask):
        if not self.additive:
            return mask
        return torch.zeros(mask.shape, dtype=self.dtype, device=mask.device).masked_fill(
            ~mask, torch.finfo(self.dtype).min
        )


class TreeMask:
    """Positions of the committed slots, and from them masks and positions for trees."""

    def __init__(self, target, input_ids, attention_mask=None, position_ids=None):
        self.format, self.known = MaskFormat(target), position_limit(target)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        self.visible = attention_mask.bool()
        if position_ids is None:
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        self.prompt = position_ids.masked_fill(~self.visible, -1)  # [B, S]; -1: never seen
        self.offset = (
            position_ids[:, -1] - input_ids.shape[1] + 1
        )  # [B] position of a generated token - its index

    def keep_rows(self, index: torch.Tensor) -> None:
        """Let only these rows stay."""
        self.visible, self.prompt, self.offset = (
            part[index] for part in (self.visible, self.prompt, self.offset)
        )

    def of(self, tree, ends: list[int], limit: int, capacity: int | None = None):
        """(mask, position_ids [B, N]) of a tree whose row b follows `ends[b]` committed slots.

        The mask is what the target takes, over all slots of a cache of `capacity`. Positions stay below `limit`, and drafts
        within a table of positions: what lies beyond is never emitted.
        """
        device, prompt, base, nodes = (
            tree.tokens.device,
            self.prompt.shape[1],
            max(ends),
            tree.tokens.shape[1],
        )
        slots = torch.arange(prompt, capacity or base + nodes, device=device)
        ends = upload(ends, device)
        later = (slots + self.offset[:, None]).masked_fill(slots >= ends[:, None], -1)
        positions = (ends[:, None] + tree.depths).clamp(max=limit - 1) + self.offset[:, None]
        positions = positions.clamp(max=self.known - 1).maximum((ends + self.offset)[:, None])
        keys = torch.cat([self.prompt, later], dim=1)  # [B, T]
        seen = (keys >= 0)[:, None].repeat(1, nodes, 1)
        seen[:, :, base : base + nodes], keys[:, base : base + nodes] = tree.ancestors, positions
        return self.format(seen, positions, keys), positions
