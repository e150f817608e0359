"""Which slot of a drafter's cache holds which token: all tokens, or sinks and a rolling window.

StreamingLLM (arXiv 2309.17453) keeps a text's first tokens, the attention sinks, and its newest
ones, and numbers what it keeps from 0. Only distances enter RoPE. So the newest tokens may keep
their positions, if the sinks are turned forward to stand right before them: the attention is the
same, and a handful of keys is turned per round. With 2 sinks and a window of 3, after 7 tokens:

    token             0  1  2  3  4  5  6
    kept              *  *        *  *  *
    read at position  2  3        4  5  6

B batch, M new tokens of a row (padded), k nodes of a tree level, C slots for committed tokens,
T all slots in use.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad


@dataclass(frozen=True)
class Window:
    """What a drafter's cache keeps: a text's first `sinks` tokens and its newest `width`.

    selected: in place of the first tokens it keeps as many of the prompt's that snapkv.py chooses.
    Those keep their positions.
    """

    sinks: int
    width: int
    selected: bool = False

    def __post_init__(self):
        if self.selected:
            if self.sinks < 1 or self.width < 1:
                raise ValueError(
                    f"the window is {self.width} tokens and snapkv {self.sinks}; "
                    "each must be 1 at least"
                )
        elif self.sinks < 0 or self.width < self.sinks + 1:
            raise ValueError(
                f"the window is {self.width} tokens and sinks are {self.sinks}; "
                "it must hold sinks + 1 tokens at least"
            )


class SlotMap:
    """The slots and positions of B rows.

    Args:
        window: what is kept; None keeps all.
        most_new: the most tokens of a row that are committed at once. The ring is longer than the
            window by so much, or new tokens would overwrite what the first of them still sees.
        fixed: (slots for committed tokens, slots for a tree's nodes) that there are from the start,
            so that no tensor changes its size; None lets it grow.

    Attributes:
        has_started: whether a prompt has been taken.
        lengths: committed tokens [B].
        held: the position in each committed slot [B, C], -1 for none.
        offset: what the model adds to the position of every new token [B], where a prompt's images
            take fewer positions than tokens; None where nothing is added.
        version: a number that changes with `lengths`.
    """

    def __init__(self, window: Window | None, most_new: int, fixed: tuple[int, int] | None = None):
        self.window = window
        self.most_new = most_new
        self.fixed = fixed
        if fixed is not None and window is not None:
            committed, nodes = fixed
            self.fixed = (min(committed, self._capacity), nodes)
        self.has_started = False
        self.lengths = torch.empty(0, dtype=torch.long)
        self.held = torch.empty(0, 0, dtype=torch.long)
        self.offset: torch.Tensor | None = None
        self.version = 0
        self._keys = self.held

    @property
    def size(self) -> int:
        """All slots of a map whose sizes are fixed."""
        assert self.fixed is not None, "this map grows"
        return sum(self.fixed)

    @property
    def committed_slots(self) -> int:
        """C."""
        return self.held.shape[1]

    def start(self, counts: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
        """Begin with prompts of `counts` [B] tokens, and the `offset` of what follows them.

        Returns:
            The number [B, C] of the token that each slot keeps, 0 where it keeps none.
        """
        self.has_started = True
        self.offset = offset
        self._set_lengths(counts)
        longest = int(counts.max())
        newest = (counts - 1)[:, None]  # [B, 1]
        slots = torch.arange(longest, device=counts.device)
        if self.window is not None and longest > self._capacity:
            # the newest token that falls on each slot of the ring
            slots = slots[: self._capacity]
            ring = self._ring
            rolled = slots + (newest - slots).clamp(min=0) // ring * ring
            slots = torch.where(slots < self.window.sinks, slots, rolled)
        self.held = slots.expand(len(counts), -1).masked_fill(slots > newest, -1)
        if self.fixed is not None:
            self.held = pad(self.held, (0, self.fixed[0] - self.held.shape[1]), value=-1)
        return self.held.clamp(min=0)

    def keep_rows(self, index: torch.Tensor) -> None:
        """Drop all rows except `index`."""
        self._set_lengths(self.lengths[index])
        self.held = self.held[index]
        if self.offset is not None:
            self.offset = self.offset[index]

    def take_back(self, counts: torch.Tensor) -> None:
        """Uncommit the newest `counts` [B] tokens; the next ones take their slots."""
        self._set_lengths(self.lengths - counts)

    def extend(
        self, counts: torch.Tensor, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Commit `width` new tokens per row, of which `counts` [B] are real.

        Returns:
            Their slots [B, M], their positions [B, M], and which committed slots they see
            (bool [B, M, C]).
        """
        fits = self.window is None or width <= self.most_new
        assert fits, f"{width} new tokens in one round, {self.most_new} were announced"
        new = torch.arange(width, device=counts.device)
        positions = self.lengths[:, None] + new
        slots = positions if self.window is None else self._slot_of(positions)
        if self.fixed is None:
            self._make_room(int(slots.max()) + 1)
        is_padding = new >= counts[:, None]
        self.held.scatter_(1, slots, positions.masked_fill(is_padding, -1))
        self._set_lengths(self.lengths + counts)
        self._keys = self.held
        return slots, positions, self.seen(positions)

    def level(
        self, level: int, ancestors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Place k nodes of a tree level behind the committed slots.

        Args:
            level: the tree level, 0 right below the root.
            ancestors: bool [B, k, n], which of all n nodes run so far, these k the last, each sees.

        Returns:
            Their slots [B, k], their positions [B, k], and what they see (bool [B, k, T]).
        """
        batch, width, run = ancestors.shape
        slots = self.held.shape[1] + torch.arange(run - width, run, device=ancestors.device)
        positions = (self.lengths + level)[:, None].expand(-1, width)
        is_first = run == width
        before = self.held if is_first else self._keys
        self._keys = torch.cat([before, positions], dim=1)
        committed = self.seen(positions[:, :1]).expand(-1, width, -1)  # [B, k, C]
        seen = torch.cat([committed, ancestors], dim=-1)
        return slots.expand(batch, -1), positions, self._padded(seen, False)

    @property
    def keys(self) -> torch.Tensor:
        """The positions [B, T] of all keys that the tokens placed last may see."""
        has_nodes = self._keys.shape[1] > self.held.shape[1]
        return self._padded(self._keys, -1) if has_nodes else self._keys

    def seen(self, positions: torch.Tensor) -> torch.Tensor:
        """Which committed slots tokens at `positions` [B, M] see: bool [B, M, C]."""
        held = self.held[:, None]
        positions = positions[..., None]
        seen = (held >= 0) & (held <= positions)
        if self.window is None:
            return seen
        in_window = held > positions - self.window.width
        return seen & ((held < self.window.sinks) | in_window)

    @property
    def shift(self) -> torch.Tensor | None:
        """By how many positions [B] the sinks stand further on; None while no window rolls."""
        if self.window is None or self.window.selected or not self.window.sinks:
            return None
        shift = self.lengths - self.window.sinks - self.window.width
        if self.offset is not None:
            shift = shift + self.offset
        shift = shift.clamp(min=0)
        if self.fixed is not None:
            return shift  # turned by nothing rather than asked, which would wait for a GPU
        return shift if shift.any() else None

    @property
    def _ring(self) -> int:
        """Slots of a window for its newest tokens."""
        assert self.window is not None, "the whole text is kept"
        return self.window.width + self.most_new

    @property
    def _capacity(self) -> int:
        """Slots of a window for committed tokens."""
        assert self.window is not None, "the whole text is kept"
        return self.window.sinks + self._ring

    def _set_lengths(self, lengths: torch.Tensor) -> None:
        self.lengths = lengths
        self.version += 1

    def _make_room(self, slots: int) -> None:
        """Have at least `slots` slots for committed tokens."""
        missing = slots - self.held.shape[1]
        if missing > 0:
            self.held = pad(self.held, (0, missing), value=-1)

    def _padded(self, part: torch.Tensor, value: int | bool) -> torch.Tensor:
        """The part [..., n] with columns for the nodes not run yet, where sizes are fixed."""
        if self.fixed is None:
            return part
        return pad(part, (0, self.size - part.shape[-1]), value=value)

    def _slot_of(self, positions: torch.Tensor) -> torch.Tensor:
        """The slot of each position: sinks first, then the ring."""
        assert self.window is not None, "the whole text is kept"
        sinks = self.window.sinks
        in_ring = sinks + (positions - sinks) % self._ring
        return torch.where(positions < sinks, positions, in_ring)
