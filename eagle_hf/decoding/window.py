"""Which slot of a drafter's cache holds which token: all of them, or attention sinks and a rolling window.

StreamingLLM (arXiv 2309.17453) keeps a text's first tokens, the sinks, and its newest ones, and numbers what it keeps from 0. Only
distances enter RoPE, so the newest tokens may keep their positions as long as the sinks are turned forward to stand right
before them: the same attention, and a handful of keys to turn a round.

B batch, M new tokens of a row (padded), C slots for committed tokens, T all slots in use.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Window:
    """What a drafter's cache keeps: the first `sinks` tokens of a text and its newest `width`, in tokens.

    selected: not a text's first tokens take the places of the sinks, but those of its prompt that snapkv.py chooses; they keep
    their positions.
    """

    sinks: int
    width: int
    selected: bool = False

    def __post_init__(self):
        if self.selected and (self.sinks < 1 or self.width < 1):
            raise ValueError(
                f"the window is {self.width} tokens and snapkv {self.sinks}; each must be 1 at least"
            )
        if self.selected:
            return
        if self.sinks < 0 or self.width < self.sinks + 1:
            raise ValueError(
                f"the window is {self.width} tokens and sinks are {self.sinks}; it must hold sinks + 1 tokens at least"
            )


class SlotMap:
    """The slots and positions of B rows.

    lengths [B]: committed tokens; held [B, C]: the position in each committed slot, -1 for none. At most `most_new` tokens of a
    row are committed at once: the ring is longer than the window by so much, lest new tokens push out what the first of them
    still sees.

    fixed: (slots for committed tokens, for a tree's nodes) that there are from the start, so that nothing ever changes its size.
    """

    def __init__(self, window: Window | None, most_new: int, fixed: tuple[int, int] | None = None):
        self.window, self.most_new = window, most_new
        self.fixed = (
            fixed if fixed is None or window is None else (min(fixed[0], self._capacity), fixed[1])
        )
        self.lengths = self.held = self._keys = None

    def start(self, counts: torch.Tensor) -> torch.Tensor:
        """Begin with prompts of `counts` [B] tokens; which of them [B, C] the slots keep (0 where none)."""
        self.lengths, longest = counts, int(counts.max())
        slots = torch.arange(
            longest if self.window is None else min(longest, self._capacity), device=counts.device
        )
        newest = (counts - 1)[:, None]
        if self.window is not None and longest > self._capacity:
            sinks, ring = self.window.sinks, self._ring
            rolled = (
                slots + (newest - slots).clamp(min=0) // ring * ring
            )  # the newest token that falls on the slot
            slots = torch.where(slots < sinks, slots, rolled)
        self.held = slots.expand(len(counts), -1).masked_fill(slots > newest, -1)
        if self.fixed is not None:
            self.held = torch.nn.functional.pad(
                self.held, (0, self.fixed[0] - self.held.shape[1]), value=-1
            )
        return self.held.clamp(min=0)

    def keep_rows(self, index: torch.Tensor) -> None:
        """Let only these rows stay."""
        self.lengths, self.held = self.lengths[index], self.held[index]

    def extend(
        self, counts: torch.Tensor, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Slots and positions [B, M] of `width` new tokens, of which counts [B] are real, and what they see [B, M, C]."""
        assert self.window is None or width <= self.most_new, (
            f"{width} new tokens in one round, {self.most_new} at most were announced"
        )
        new = torch.arange(width, device=counts.device)
        positions = self.lengths[:, None] + new
        slots = positions if self.window is None else self._slot(positions)
        if self.fixed is None and (room := int(slots.max()) + 1 - self.held.shape[1]) > 0:
            self.held = torch.cat([self.held, self.held.new_full((len(counts), room), -1)], dim=1)
        self.held.scatter_(1, slots, positions.masked_fill(new >= counts[:, None], -1))
        self.lengths, self._keys = self.lengths + counts, self.held
        return slots, positions, self.seen(positions)

    def level(
        self, level: int, ancestors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Slots and positions [B, k] of a tree level behind the committed slots, and what its nodes see [B, k, T].

        ancestors: bool [B, k, n], which of all n nodes run so far, these k the last, each sees.
        """
        rows, width, run = ancestors.shape
        slots = self.held.shape[1] + torch.arange(run - width, run, device=ancestors.device)
        positions = (self.lengths + level)[:, None].expand(-1, width)
        self._keys = torch.cat([self._keys if run > width else self.held, positions], dim=1)
        seen = torch.cat([self.seen(positions[:, :1]).expand(-1, width, -1), ancestors], dim=-1)
        return slots.expand(rows, -1), positions, self._whole(seen, False)

    @property
    def keys(self) -> torch.Tensor:
        """The positions [B, T] of all keys that the tokens last placed may see."""
        return (
            self._whole(self._keys, -1) if self._keys.shape[1] > self.held.shape[1] else self._keys
        )

    def _whole(self, part: torch.Tensor, value) -> torch.Tensor:
        """With columns for the nodes not run yet, where sizes are fixed."""
        return (
            part
            if self.fixed is None
            else torch.nn.functional.pad(part, (0, sum(self.fixed) - part.shape[-1]), value=value)
        )

    def seen(self, positions: torch.Tensor) -> torch.Tensor:
        """Bool [B, M, C]: the committed slots that tokens at `positions` [B, M] see."""
        held, positions = self.held[:, None], positions[..., None]
        seen = (held >= 0) & (held <= positions)
        if self.window is None:
            return seen
        return seen & ((held < self.window.sinks) | (held > positions - self.window.width))

    @property
    def shift(self) -> torch.Tensor | None:
        """By how many positions [B] the sinks stand further on than they were read; None while no window rolls."""
        if self.window is None or self.window.selected:
            return None
        shift = (self.lengths - self.window.sinks - self.window.width).clamp(min=0)
        return (
            shift if self.window.sinks and (self.fixed is not None or shift.any()) else None
        )  # fixed: turned by nothing, not asked

    @property
    def _ring(self) -> int:
        return self.window.width + self.most_new

    @property
    def _capacity(self) -> int:
        return self.window.sinks + self._ring

    def _slot(self, positions: torch.Tensor) -> torch.Tensor:
        sinks = self.window.sinks
        return torch.where(positions < sinks, positions, sinks + (positions - sinks) % self._ring)
