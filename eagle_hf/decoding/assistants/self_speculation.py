"""The target as its own drafter, on a window of its own cache (MagicDec, arXiv 2408.11049).

B batch, M newly committed tokens (padded), S prompt slots, g key heads, D head width.
"""

import torch

from eagle_hf.decoding.assistants.base import Assistant, DraftContext
from eagle_hf.decoding.assistants.small_model import ModelDrafter
from eagle_hf.decoding.assistants.windows import chain_of, check_drafting, describe, make_window
from eagle_hf.decoding.pending import Pending, left_aligned, padded_rows
from eagle_hf.decoding.snapkv import Selection
from eagle_hf.decoding.upload import upload
from eagle_hf.decoding.window import Window
from eagle_hf.provenance import dtype_name


class SelfSpeculation(Assistant):
    """`generate(assistant_model=SelfSpeculation())`: the target drafts with its own weights.

    It reads a window of its own cache.

    Args:
        sinks, gamma, snapkv: as in `WindowedDraft`, as are the attributes `tree`, `plan` and
            `last_run`.
        window: how many of the newest tokens are kept; there must be a window.

    Raises:
        ValueError: for settings that contradict each other.
    """

    def __init__(
        self, sinks: int = 16, window: int = 496, gamma: int = 4, snapkv: int | None = None
    ):
        if window is None:
            raise ValueError(
                "SelfSpeculation was given window=None; on its whole cache the target drafts no "
                "faster than it decodes"
            )
        self.window = make_window(sinks, window, snapkv)
        self.tree = chain_of(gamma)

    @property
    def reads_window_only(self) -> bool:
        return True

    def check(self, target) -> None:
        """Raise a ValueError for a target that cannot draft for itself."""
        check_drafting(target, self.window)

    def drafter_facts(self, target) -> dict[str, str]:
        return {
            "drafter_fingerprint": f"the target itself, {describe(self.window)}",
            "drafter_dtype": dtype_name(target),
        }

    def drafter(self, context: DraftContext) -> "SelfDrafter":
        return SelfDrafter(context, self.window)


class SelfDrafter(ModelDrafter):
    """The target itself, on the keys and values of its own committed tokens.

    It copies them from the target's cache, as far as the window keeps them.
    """

    def __init__(self, context: DraftContext, window: Window):
        super().__init__(context.target, context, window)
        self.window = window
        self.target_cache = context.cache
        self.counts = torch.empty(0, dtype=torch.long)  # [B] prompt tokens of each row
        self.prompt_slots = 0  # S

    def prefill_selection(self, visible):
        return Selection(self.window, visible) if self.window.selected else None

    def start(self, input_ids, visible, aux, first, selection, shift=None):
        order, self.counts = left_aligned(visible)
        self.prompt_slots = input_ids.shape[1]
        numbers = self.slots.start(self.counts, shift)
        kept = order.gather(1, numbers)  # [B, C] slots of the target's cache
        theirs = self.target_cache.layers
        ours = self.cache.with_layers(len(theirs))
        for index, (layer, full) in enumerate(zip(ours, theirs, strict=True)):
            chosen = kept if selection is None else selection.kept(index, full.keys, kept)
            layer.keep(full.keys, full.values, chosen)
        self.pending = [Pending(torch.ones_like(self.counts), first[:, None])]

    def keep_rows(self, index):
        super().keep_rows(index)
        self.counts = self.counts[index]

    def accept(self, aux, paths, tokens):
        """Take a round's outcome, and copy the keys of the root and the accepted drafts."""
        device = self.counts.device
        counts = upload([len(path) for path in paths], device)
        if not self.pending:
            # the drafter has read the root itself; now the target's keys take its place
            self.slots.take_back((counts > 0).long())
        longest = max(len(path) for path in paths)
        slots, positions, _ = self.slots.extend(counts, max(self.least_width, longest))
        self._copy(slots, self.prompt_slots + positions - self.counts[:, None])
        newest = [emitted[-1:] for emitted in tokens]
        self.pending = [Pending((counts > 0).long(), padded_rows(newest, device))]

    def _copy(self, slots: torch.Tensor, sources: torch.Tensor) -> None:
        """Copy the target's keys and values in slots `sources` [B, M] to our `slots` [B, M]."""
        # entries that only fill up point anywhere
        sources = sources.clamp(max=self.target_cache.get_seq_length() - 1)
        length = self.slots.committed_slots
        for layer, full in zip(self.cache.layers, self.target_cache.layers, strict=True):
            index = sources.to(full.keys.device)[:, None, :, None]
            index = index.expand(-1, full.keys.shape[1], -1, -1)  # [B, g, M, 1]
            keys = full.keys.gather(2, index.expand(-1, -1, -1, full.keys.shape[-1]))
            values = full.values.gather(2, index.expand(-1, -1, -1, full.values.shape[-1]))
            layer.write(slots, keys, values, length)
