"""What a drafter has not read yet, and rows of different lengths as tensors.

B batch, M newly committed tokens (padded on the right), S prompt slots, H hidden.
"""

from dataclasses import dataclass

import torch

from eagle_hf.decoding.upload import upload


@dataclass(frozen=True)
class Pending:
    """Committed tokens that the drafter has not read.

    Attributes:
        counts: int64 [B], how many are real in each row.
        tokens: int64 [B, M].
        aux: the target's aux hidden states [B, M, 3H] that go with them, for drafters that read
            them.
    """

    counts: torch.Tensor
    tokens: torch.Tensor
    aux: torch.Tensor | None = None

    @property
    def width(self) -> int:
        """M."""
        return self.tokens.shape[1]

    def keep_rows(self, index: torch.Tensor) -> "Pending":
        """The same without all rows except `index`."""
        aux = None if self.aux is None else self.aux[index]
        return Pending(self.counts[index], self.tokens[index], aux)

    @classmethod
    def join(cls, parts: list["Pending"]) -> "Pending":
        """The tokens of several rounds as one, in their order."""
        if len(parts) == 1:
            return parts[0]
        is_real = []
        for part in parts:
            slots = torch.arange(part.width, device=part.tokens.device)
            is_real.append(slots < part.counts[:, None])
        order, counts = left_aligned(torch.cat(is_real, dim=1))
        order = order[:, : max(1, int(counts.max()))]  # [B, M]
        tokens = torch.cat([part.tokens for part in parts], dim=1).gather(1, order)
        states = [part.aux for part in parts if part.aux is not None]
        if not states:
            return cls(counts, tokens)
        return cls(counts, tokens, take_slots(torch.cat(states, dim=1), order))


def left_aligned(visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How the real slots of bool [B, S] come to the left.

    Returns:
        The order [B, S] of the slots, and how many are real [B].
    """
    return (~visible).long().argsort(dim=1, stable=True), visible.sum(1)


def take_slots(states: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """The states [B, M, H] at `slots` [B, M] of states [B, S, H]."""
    return states.gather(1, slots[..., None].expand(-1, -1, states.shape[-1]))


def padded_rows(rows: list[list[int]], device: torch.device, least: int = 1) -> torch.Tensor:
    """Rows of different lengths as one tensor [B, M], zeros behind the shorter ones.

    M is at least `least`.
    """
    width = max(least, max(len(row) for row in rows))
    padded = [row + [0] * (width - len(row)) for row in rows]
    return upload(padded, device)


def newest_output(output: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The output [B, H] at each row's last real token, of `counts` [B] in output [B, M, H].

    A finished row has no new token. Its output is any, because its trees go unread.
    """
    last = (counts - 1).clamp(min=0)[:, None]
    return take_slots(output, last)[:, 0]
