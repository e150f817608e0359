"""What a run did, and where its time went."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

PHASES = ("prefill", "target", "head", "draft", "accept", "commit")


class Stopwatch:
    """Seconds by phase; an inner phase pauses the outer one.

    The phases are

    - prefill: the target over the prompt,
    - target: the target over trees,
    - head: the drafter's forwards,
    - draft: the rest of drafting,
    - accept: masks, logits processors, the walk down the tree,
    - commit: the caches.

    On a GPU, which works while Python runs ahead, the seconds are the GPU's own. They come from
    events that are read when `seconds` is asked for, so no phase waits to be timed.
    """

    def __init__(self, device: torch.device | None = None):
        self._uses_events = device is not None and device.type == "cuda"
        self._phase: str | None = None
        self._since = self._mark()
        self._spans: list[tuple] = []  # (phase, begin, end)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, until now."""
        return self.seconds_since(0)

    @property
    def spans(self) -> int:
        """How many stretches of a phase have ended: a mark for `seconds_since`."""
        return len(self._spans)

    def seconds_since(self, spans: int) -> dict[str, float]:
        """Seconds by phase, until now.

        Args:
            spans: what the property was at the moment from which on they count.
        """
        seconds = dict.fromkeys(PHASES, 0.0)
        if self._uses_events:
            self._since.synchronize()
        for phase, begin, end in self._spans[spans:]:
            if self._uses_events:
                seconds[phase] += begin.elapsed_time(end) / 1000
            else:
                seconds[phase] += end - begin
        return seconds

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Count the block's seconds for this phase."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, name: str | None) -> str | None:
        """Begin a phase; returns the one that ends."""
        now = self._mark()
        former = self._phase
        if former is not None:
            self._spans.append((former, self._since, now))
        self._phase = name
        self._since = now
        return former

    def _mark(self):
        """This moment: seconds, or an event in the GPU's queue."""
        if not self._uses_events:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass
class DecodingStats:
    """One `generate` call with a drafter.

    Attributes:
        rows: rows of the batch.
        rounds: draft-verify-commit cycles, every unfinished row counted by itself.
        tokens: tokens that these rounds emitted. The token that the prefill emits belongs to no
            round.
        trials: trials[k] counts how often a draft of depth k + 1 was on trial, all earlier ones of
            its branch being accepted.
        accepted: accepted[k] counts how many of these were accepted.
        seconds: by phase, see `Stopwatch`.
    """

    rows: int = 1
    rounds: int = 0
    tokens: int = 0
    trials: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def tau(self) -> float:
        """Mean tokens emitted per round, the bonus token included; nan without rounds."""
        return self.tokens / self.rounds if self.rounds else float("nan")

    @property
    def alpha(self) -> list[float]:
        """Acceptance at each depth, given that the drafts above were accepted."""
        pairs = zip(self.accepted, self.trials, strict=True)
        return [accepted / trials for accepted, trials in pairs]

    @property
    def overhead(self) -> float:
        """Seconds per round outside the forwards of target and drafter."""
        outside = sum(self.seconds[phase] for phase in ("draft", "accept", "commit"))
        return outside / max(self.rounds, 1)

    @property
    def overhead_share(self) -> float:
        """`overhead` as a share of a round."""
        in_rounds = sum(self.seconds.values()) - self.seconds.get("prefill", 0.0)
        return self.overhead * self.rounds / in_rounds if in_rounds else float("nan")

    def count(self, trials: int, accepted: int, tokens: int) -> None:
        """Add one row's round: depths on trial, depths accepted, tokens emitted."""
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
        seconds = {}
        for phase in PHASES:
            seconds[phase] = self.seconds.get(phase, 0) + other.seconds.get(phase, 0)
        return DecodingStats(
            rows=self.rows + other.rows,
            rounds=self.rounds + other.rounds,
            tokens=self.tokens + other.tokens,
            trials=_sums(self.trials, other.trials),
            accepted=_sums(self.accepted, other.accepted),
            seconds=seconds,
        )


def _sums(ours: list[int], theirs: list[int]) -> list[int]:
    """The sums of two lists; the shorter one counts as zero beyond its end."""
    longer, shorter = (ours, theirs) if len(ours) >= len(theirs) else (theirs, ours)
    sums = list(longer)
    for index, value in enumerate(shorter):
        sums[index] += value
    return sums
