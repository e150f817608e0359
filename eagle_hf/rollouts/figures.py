"""What rollouts come to between two lines of a log."""

import math

from eagle_hf.decoding.stats import DecodingStats

DEPTHS = 3  # alpha_1 to alpha_3 are logged


class Figures:
    """Counts since the last line.

    Attributes:
        learnt: steps of the head.
        learning_seconds: that they took.
        head_loss: of the newest of these steps; None without one.
    """

    def __init__(self):
        self._stats = DecodingStats(rows=0)
        self._calls = 0
        self._drafted = 0
        self._seconds = 0.0
        self.learnt = 0
        self.learning_seconds = 0.0
        self.head_loss: float | None = None

    def add_call(self, stats: DecodingStats | None, seconds: float) -> None:
        """Add a call of generate; stats are None where it was plain."""
        self._calls += 1
        self._seconds += seconds
        if stats is not None:
            self._drafted += 1
            self._stats = self._stats + stats

    def add_learning(self, steps: int, seconds: float, loss: float | None) -> None:
        """Add what the head learnt after a step of the policy."""
        self.learnt += steps
        self.learning_seconds += seconds
        if loss is not None:
            self.head_loss = loss

    def logs(self, speed: float | None) -> dict[str, float]:
        """The figures as a line of a log; empty where nothing was generated.

        Args:
            speed: plain seconds over drafted seconds, as far as measured.
        """
        if not self._calls:
            return {}
        logs = {
            "rollout/drafted": self._drafted / self._calls,
            "rollout/seconds": self._seconds,
        }
        if not math.isnan(self._stats.tau):
            logs["rollout/tau"] = self._stats.tau
        for depth, alpha in enumerate(self._stats.alpha[:DEPTHS], 1):
            logs[f"rollout/alpha_{depth}"] = alpha
        if speed is not None:
            logs["rollout/speed"] = speed
        if self.learnt:
            logs["rollout/head_steps"] = self.learnt
            logs["rollout/head_seconds"] = self.learning_seconds
        if self.head_loss is not None:
            logs["rollout/head_loss"] = self.head_loss
        return logs
