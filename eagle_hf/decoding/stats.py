"""What a run did and where its time went."""

import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

PHASES = ("prefill", "target", "head", "draft", "accept", "commit")


class Stopwatch:
    """Seconds by phase; an inner phase pauses the outer one.

    Phases: prefill (the target over the prompt), target (the target over trees), head (the drafter's forwards), draft
    (the rest of drafting), accept (masks, processors, the walk), commit (caches). On a GPU, which works while Python
    runs ahead, they are the GPU's own, from events that are read when `seconds` is asked for: no phase waits to be timed.
    """

    def __init__(self, device: torch.device | None = None):
        self._events = device is not None and device.type == "cuda"
        self._phase, self._since, self._spans = None, self._mark(), []

    @property
    def seconds(self) -> dict[str, float]:
        """By phase, until now."""
        seconds = dict.fromkeys(PHASES, 0.0)
        if self._events:
            self._since.synchronize()
        for phase, begin, end in self._spans:
            seconds[phase] += begin.elapsed_time(end) / 1000 if self._events else end - begin
        return seconds

    @contextmanager
    def phase(self, name: str):
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, name):
        now, outer = self._mark(), self._phase
        if outer is not None:
            self._spans.append((outer, self._since, now))
        self._phase, self._since = name, now
        return outer

    def _mark(self):
        """This moment: seconds, or an event among the GPU's work."""
        if not self._events:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass
class DecodingStats:
    """One `generate` call. rounds counts every unfinished row's draft-verify-commit cycles; tokens those they emitted.

    The token that the prefill emits belongs to no round. trials[k], accepted[k]: how often a draft of depth k + 1
    was on trial after all earlier ones had been accepted, and how often one was accepted.
    """

    rows: int = 1
    rounds: int = 0
    tokens: int = 0
    trials: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def tau(self) -> float:
        """Mean tokens emitted per round, the bonus included; nan without rounds."""
        return self.tokens / self.rounds if self.rounds else float("nan")

    @property
    def alpha(self) -> list[float]:
        """Acceptance at each depth, given that the drafts above were accepted."""
        return [kept / trials for kept, trials in zip(self.accepted, self.trials)]

    @property
    def overhead(self) -> float:
        """Seconds per round outside the forwards of target and head."""
        return sum(self.seconds[phase] for phase in ("draft", "accept", "commit")) / max(
            self.rounds, 1
        )

    @property
    def overhead_share(self) -> float:
        """`overhead` as a share of a round."""
        rounds = sum(self.seconds.values()) - self.seconds.get("prefill", 0.0)
        return self.overhead * self.rounds / rounds if rounds else float("nan")

    def count(self, trials: int, accepted: int, tokens: int) -> None:
        """Add one row's round."""
        self.rounds += 1
        self.tokens += tokens
        missing = trials - len(self.trials)
        self.trials += [0] * missing
        self.accepted += [0] * missing
        for depth in range(trials):
            self.trials[depth] += 1
            self.accepted[depth] += depth < accepted

    def __add__(self, other: "DecodingStats") -> "DecodingStats":
        """Both runs taken together."""
        depth = max(len(self.trials), len(other.trials))

        def add(ours, theirs):
            return [
                sum(pair)
                for pair in zip(*(part + [0] * (depth - len(part)) for part in (ours, theirs)))
            ]

        seconds = {name: self.seconds.get(name, 0) + other.seconds.get(name, 0) for name in PHASES}
        return DecodingStats(
            self.rows + other.rows,
            self.rounds + other.rounds,
            self.tokens + other.tokens,
            add(self.trials, other.trials),
            add(self.accepted, other.accepted),
            seconds,
        )
