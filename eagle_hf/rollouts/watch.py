"""Whether the head that learns still drafts well: what it must be rolled back for."""

FELL_TO = 0.5  # of the drafts accepted a round before
PATIENCE = 5  # drafted calls in a row
NEWEST = 0.2  # weight of the newest call in the level


class TauWatch:
    """Follows the drafts accepted a round, tau - 1, over drafted calls.

    A head diverges without a NaN too, by a learning rate that is too high. Then acceptance falls
    within a few calls, much faster than a policy moves.
    """

    def __init__(self):
        self._level: float | None = None  # a running mean
        self._low = 0  # calls in a row far below it

    def add(self, tau: float) -> str:
        """Add a drafted call's tau.

        Returns:
            "keep" where the weights of now draft as well as those before, "roll back" where they
            have been far worse for some calls, else "go on".
        """
        accepted = tau - 1
        if self._level is None:
            self._level = accepted
            return "keep"
        if accepted < FELL_TO * self._level:
            return self._add_low()
        is_good = accepted >= self._level
        self._level += NEWEST * (accepted - self._level)
        self._low = 0
        return "keep" if is_good else "go on"

    def _add_low(self) -> str:
        """Add a call far below the level."""
        self._low += 1
        if self._low < PATIENCE:
            return "go on"
        # the policy may have moved too: what the kept weights reach now is the level from here
        self._level = None
        self._low = 0
        return "roll back"
