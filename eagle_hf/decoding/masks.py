"""What a tree's nodes may see: the row's committed tokens and their own ancestors.

B batch, S prompt slots, N nodes, A axes of positions, T cache slots, the tree's own among them. A
mask is True where attention is allowed. For a tree root -> a -> b with a sibling c of a, behind
committed tokens x y:

            x  y  root a  b  c
    root    1  1  1    0  0  0
    a       1  1  1    1  0  0
    b       1  1  1    1  1  0
    c       1  1  1    0  0  1

Layers with a sliding window see less, by position.
"""

from copy import copy
from typing import Any

import torch

from eagle_hf.compat import attention_implementation
from eagle_hf.compilation.forwards import additive
from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.upload import upload
from eagle_hf.target import layer_kinds, position_limit, unwrap

NEVER = -1  # the position of a slot that nobody sees
TEXT_AND_AXES = 4  # text, time, height, width; without the first there are three


class MaskFormat:
    """How a model takes a mask of its own.

    That is bool or additive [B, 1, N, T], or a dictionary of these by layer kind.
    """

    def __init__(self, model):
        config = unwrap(model).config.get_text_config()
        self.kinds = layer_kinds(config)
        self.window: Any = getattr(config, "sliding_window", None)  # tokens, where layers slide
        # eager attention adds its mask, and would add booleans as numbers
        self.is_additive = attention_implementation(config) == "eager"
        self.dtype = model.dtype

    def __call__(self, seen: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor):
        """The mask of N tokens.

        Args:
            seen: bool [B, N, T], the keys that each token sees where nothing slides.
            positions: [B, N] of the tokens.
            keys: [B, T], the positions of the keys.
        """
        masks = {}
        for kind in self.kinds:
            visible = seen
            if kind == "sliding_attention":
                distance = positions[:, :, None] - keys[:, None]  # [B, N, T]
                visible = seen & (distance < self.window)
            masks[kind] = self._typed(visible[:, None])
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _typed(self, mask: torch.Tensor) -> torch.Tensor:
        """The bool mask [B, 1, N, T] as the model's attention takes it."""
        if not self.is_additive:
            return mask
        return additive(mask, self.dtype)


class TreeMask:
    """Positions of the committed slots of a batch, and from them masks and positions of trees.

    Some models place the patches of an image on several axes (M-RoPE): position_ids are [A, B, S].
    Text goes on by one on every axis, so an axis differs from the text's own count by a constant
    `shift`. An image of 2 by 3 patches takes 6 slots and 3 positions, and what follows is shifted
    by -3:

        slot     0  1  2  3  4  5  6  7  8
        token    a  b  x  x  x  x  x  x  c
        height   0  1  2  2  2  3  3  3  5
        width    0  1  2  3  4  2  3  4  5

    Masks count in slots of text, as the models themselves do.

    Args:
        target: the model that reads the trees.
        input_ids: the prompts [B, S].
        attention_mask: [B, S]; None where every slot is real.
        position_ids: [B, S], or [A, B, S], as the model takes them; None where it counts itself.

    Attributes:
        visible: bool [B, S], the prompt's real slots.
        shift: [A, B], what is added on each axis to the position of text behind the prompt; None
            where there is one axis.
    """

    def __init__(self, target, input_ids, attention_mask=None, position_ids=None):
        self.format = MaskFormat(target)
        self.position_limit = position_limit(target)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        self.visible = attention_mask.bool()
        axes = None
        if position_ids is not None and position_ids.dim() == 3:
            axes = position_ids
            # of four, the first counts the text
            position_ids = axes[0] if len(axes) == TEXT_AND_AXES else None
        if position_ids is None:
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        self.prompt = position_ids.masked_fill(~self.visible, NEVER)  # [B, S]
        # [B] a generated token's position minus its slot
        self.offset = position_ids[:, -1] - input_ids.shape[1] + 1
        self.shift = None if axes is None else axes[..., -1] - position_ids[:, -1]

    def of_rows(self, index: torch.Tensor) -> "TreeMask":
        """The masks of these rows alone; this one keeps all."""
        chosen = copy(self)
        chosen.keep_rows(index)
        return chosen

    def keep_rows(self, index: torch.Tensor) -> None:
        """Drop all rows except `index`."""
        self.visible = self.visible[index]
        self.prompt = self.prompt[index]
        self.offset = self.offset[index]
        if self.shift is not None:
            self.shift = self.shift[:, index]

    def for_text(self, start: int, end: int):
        """Mask and positions of the prompt's slots from `start` to `end`, as `for_tree` returns."""
        keys = self.prompt[:, :end]
        positions = self.prompt[:, start:end]
        slots = torch.arange(end, device=keys.device)
        is_before = slots <= slots[start:, None]  # [N, T]
        seen = self.visible[:, None, :end] & is_before
        return self.format(seen, positions, keys), positions.clamp(min=0)

    def for_tree(self, tree: Tree, ends: list[int], limit: int, capacity: int | None = None):
        """Mask and positions of a tree.

        Args:
            tree: N nodes a row.
            ends: committed slots of each row; the tree follows them.
            limit: the longest a row may become, in tokens.
            capacity: slots of a cache that keeps its size.

        Returns:
            (mask as the target takes it, position_ids [B, N] or [A, B, N]). Positions stay below
            `limit`, and the drafts' within a table of positions: what lies beyond is never emitted.
        """
        device = tree.tokens.device
        base = max(ends)
        after = base + tree.size
        committed = upload(ends, device)  # [B]
        positions = self._node_positions(tree, committed, limit)

        # positions of all keys: the prompt's, those generated since, the tree's own
        slots = torch.arange(self.prompt.shape[1], capacity or after, device=device)
        is_later = slots >= committed[:, None]
        generated = (slots + self.offset[:, None]).masked_fill(is_later, NEVER)
        keys = torch.cat([self.prompt, generated], dim=1)  # [B, T]

        seen = (keys >= 0)[:, None].repeat(1, tree.size, 1)  # [B, N, T]
        seen[:, :, base:after] = tree.ancestors
        keys[:, base:after] = positions
        mask = self.format(seen, positions, keys)
        if self.shift is not None:
            positions = positions + self.shift[..., None]  # [A, B, N]
        return mask, positions

    def _node_positions(self, tree: Tree, committed: torch.Tensor, limit: int) -> torch.Tensor:
        """Positions [B, N] of a tree's nodes behind `committed` [B] slots."""
        slots = (committed[:, None] + tree.depths).clamp(max=limit - 1)
        positions = (slots + self.offset[:, None]).clamp(max=self.position_limit - 1)
        root = (committed + self.offset)[:, None]
        return positions.maximum(root)


def prompt_positions(
    input_ids: torch.Tensor, inputs: dict[str, Any], prepared: dict[str, Any]
) -> torch.Tensor | None:
    """The positions at which a model reads its prompts.

    Some classes move those that generate has counted, and some drop them and count slots, padding
    included.

    Args:
        input_ids: the prompts [B, S].
        inputs: what generate has prepared.
        prepared: the same, prepared by the model for its forward.

    Returns:
        [B, S] or [A, B, S]; None where nobody has counted.
    """
    positions = prepared.get("position_ids")
    if positions is None and inputs.get("position_ids") is not None:
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    return positions
