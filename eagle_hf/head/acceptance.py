"""How often a head's drafts are accepted: `Acceptance`, the figures that trees are chosen by."""

import math
from dataclasses import dataclass

ROUNDING = 1e-9  # shares are quotients, so their sum may exceed 1 by this much


@dataclass(frozen=True)
class Acceptance:
    """How often a head's drafts are accepted, and how far its probabilities can be trusted.

    The default is a modest head's: SmolLM2-135M's after an hour of training
    (docs/experiments/).

    Args:
        shares: One row per depth, from depth 1. `shares[d][r]` is the share of accepted drafts
            among those at depth d + 1 that were guess number r of an accepted node. Depths beyond
            the last row count as the last one.
        slopes: One per depth. A draft of probability p is accepted with the probability
            `sigmoid(slope * logit(p) + offset)`.
        offsets: One per depth, for the same formula.

    Raises:
        ValueError: Rows differ in length, a share is negative, a row adds up to more than 1, or
            a number is not finite.
    """

    shares: tuple[tuple[float, ...], ...] = (
        (0.55, 0.13, 0.05, 0.04),
        (0.5, 0.12, 0.05, 0.04),
        (0.48, 0.11, 0.05, 0.04),
    )
    slopes: tuple[float, ...] = (1.0,)
    offsets: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        # JSON knows lists alone, and a frozen dataclass of lists cannot be hashed
        object.__setattr__(self, "shares", tuple(map(tuple, self.shares)))
        object.__setattr__(self, "slopes", tuple(self.slopes))
        object.__setattr__(self, "offsets", tuple(self.offsets))
        self._check_shares()
        self._check_numbers()

    def _check_shares(self) -> None:
        """Refuse rows of different lengths, and rows that are no shares of one whole."""
        widths = {len(row) for row in self.shares}
        have_one_width = len(widths) == 1 and 0 not in widths
        are_shares = all(_are_shares(row) for row in self.shares)
        if not have_one_width or not are_shares:
            raise ValueError(
                f"shares are {self.shares!r:.80}; needed are rows of one length, by depth, of "
                "shares that add up to 1 at most"
            )

    def _check_numbers(self) -> None:
        """Refuse what is no finite number, and slopes without offsets."""
        numbers = [*self.slopes, *self.offsets]
        for row in self.shares:
            numbers += row
        if not all(_is_finite(number) for number in numbers):
            raise ValueError(f"acceptance holds {numbers!r:.80}; needed are finite numbers")
        if not self.slopes or len(self.slopes) != len(self.offsets):
            raise ValueError(
                f"{len(self.slopes)} slopes and {len(self.offsets)} offsets; give one of each for "
                "every depth"
            )


def _are_shares(row: tuple[float, ...]) -> bool:
    """Whether these are parts of one whole."""
    return all(share >= 0 for share in row) and sum(row) <= 1 + ROUNDING


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)
