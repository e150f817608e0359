"""When rollouts are drafted, and when the policy generates plainly.

Drafts pay or not by what is measured: seconds per token of the longest row, drafted and plain. A
plain call now and then keeps the comparison alive. Where drafting loses, it pauses for so many
calls that the one that tries it again costs at most 2 % of them.

    call    0        1      2        3        ...  51     52
            drafted  plain  drafted  drafted       plain  drafted
            not timed

The first call is not timed: it measures the machine and fills caches.
"""

import math
from collections import deque
from statistics import median

LOSS_LIMIT = 0.02  # of the time of plain generation
LEAST_PAUSE = 8  # calls
REMEMBERED = 5  # measurements of each kind
TRIED = 2  # drafted calls before drafting can be found to lose


class Pace:
    """Chooses call by call, from the seconds of the calls before.

    Args:
        measure_every: calls from one plain measurement to the next; 0 never measures, and so never
            pauses.
    """

    def __init__(self, measure_every: int = 50):
        self.measure_every = measure_every
        self._calls = 0
        self._drafted: deque[float] = deque(maxlen=REMEMBERED)  # seconds per token
        self._plain: deque[float] = deque(maxlen=REMEMBERED)
        self._pause = 0  # plain calls left

    @property
    def drafts(self) -> bool:
        """Whether the next call is drafted."""
        if self._pause:
            return False
        if not self.measure_every:
            return True
        return self._calls % self.measure_every != 1 % self.measure_every

    @property
    def is_paused(self) -> bool:
        """Whether drafting has lost, and rests."""
        return self._pause > 0

    @property
    def speed(self) -> float | None:
        """Plain seconds over drafted seconds; None before both were measured."""
        if not self._plain or not self._drafted:
            return None
        return median(self._plain) / median(self._drafted)

    def saved(self, seconds: float) -> float:
        """Seconds that a drafted call of `seconds` has saved; 0 where it is not known."""
        return 0.0 if self.speed is None else seconds * (self.speed - 1)

    def add(self, was_drafted: bool, seconds: float, tokens: int) -> None:
        """Add a call.

        Args:
            was_drafted: or plain.
            seconds: that it took.
            tokens: of its longest row.
        """
        is_first = self._calls == 0
        self._calls += 1
        if self._pause:
            self._pause -= 1
        if is_first or not tokens:
            return
        kept = self._drafted if was_drafted else self._plain
        kept.append(seconds / tokens)
        if was_drafted:
            self._judge()

    def _judge(self) -> None:
        """Pause where drafting loses."""
        if self.speed is None or len(self._drafted) < TRIED or self.speed >= 1:
            return
        loss = 1 / self.speed - 1
        self._pause = max(LEAST_PAUSE, math.ceil(loss / LOSS_LIMIT))
        # what comes after the pause is judged by itself, and at once
        newest = self._drafted[-1]
        self._drafted.clear()
        self._drafted.append(newest)

    def state(self) -> dict:
        """What a resumed run goes on from."""
        return {
            "calls": self._calls,
            "drafted": list(self._drafted),
            "plain": list(self._plain),
            "pause": self._pause,
        }

    def load_state(self, state: dict) -> None:
        """Go on from a state."""
        self._calls = state["calls"]
        self._drafted = deque(state["drafted"], maxlen=REMEMBERED)
        self._plain = deque(state["plain"], maxlen=REMEMBERED)
        self._pause = state["pause"]
