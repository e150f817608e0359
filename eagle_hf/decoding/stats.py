"""What a run did, and where its time went."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest

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
        drafted: nodes that were drafted, the roots not counted.
        forwards: forwards[w] counts the drafter's forwards over w nodes a row.
        deepest: levels of the deepest tree.
        by_size: by_size[n][k] counts the rounds that drafted n nodes and accepted k of them.
        nodes: the places of a tree by rank path: "1.0" is the likeliest child of the root's second
            child. For each [how often it was on trial, how often it was accepted]. A node is on
            trial where the walk reaches its parent.
        row_rounds, row_tokens: the rounds and tokens of each row by itself; empty where the rows
            were not told apart.
    """

    rows: int = 1
    rounds: int = 0
    tokens: int = 0
    trials: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    drafted: int = 0
    forwards: list[int] = field(default_factory=list)
    deepest: int = 0
    by_size: list[list[int]] = field(default_factory=list)
    nodes: dict[str, list[int]] = field(default_factory=dict)
    row_rounds: list[int] = field(default_factory=list)
    row_tokens: list[int] = field(default_factory=list)

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

    def count_draft(self, drafted: int, accepted: int, depth: int) -> None:
        """Add what one row's round drafted: so many nodes in so many levels; so many accepted."""
        self.drafted += drafted
        self.deepest = max(self.deepest, depth)
        while len(self.by_size) <= drafted:
            self.by_size.append([])
        counts = self.by_size[drafted]
        counts += [0] * (accepted + 1 - len(counts))
        counts[accepted] += 1

    def count_forwards(self, widths: Sequence[int]) -> None:
        """Add a round's forwards of the drafter, each over so many nodes a row."""
        for width in widths:
            self.forwards += [0] * (width + 1 - len(self.forwards))
            self.forwards[width] += 1

    def count_row(self, row: int, tokens: int) -> None:
        """Add a round of one row to what that row did by itself."""
        missing = row + 1 - len(self.row_rounds)
        self.row_rounds += [0] * missing
        self.row_tokens += [0] * missing
        self.row_rounds[row] += 1
        self.row_tokens[row] += tokens

    def count_nodes(
        self, parents: Sequence[int], tokens: Sequence[int], walk: Sequence[int]
    ) -> None:
        """Add one row's tree: which of its nodes were on trial, and which were accepted.

        The tree 0 -> (1, 2), 1 -> 3 with the walk [token of 1] has 1, 2 and 3 on trial, as "0",
        "1" and "0.0", of which 1 was accepted.

        Args:
            parents: of every node, the root first. Parents precede their children, and siblings
                follow by rank.
            tokens: of every node.
            walk: the tokens of the accepted nodes, from the root's child on.
        """
        reached = {0: ""}  # nodes that the walk reached -> rank path
        ranks = {0: 0}  # the same -> how many of their children were seen
        depth_of = {0: 0}
        for node in range(1, len(parents)):
            parent = parents[node]
            if parent not in reached:
                continue
            rank = ranks[parent]
            ranks[parent] = rank + 1
            depth = depth_of[parent]
            above = reached[parent]
            path = f"{above}.{rank}" if above else str(rank)
            is_accepted = depth < len(walk) and tokens[node] == walk[depth]
            self.count_node(path, is_accepted)
            if is_accepted:
                reached[node] = path
                ranks[node] = 0
                depth_of[node] = depth + 1

    def count_node(self, path: str, is_accepted: bool) -> None:
        """Add one trial of the node at a rank path."""
        counts = self.nodes.setdefault(path, [0, 0])
        counts[0] += 1
        counts[1] += is_accepted

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
            drafted=self.drafted + other.drafted,
            forwards=_sums(self.forwards, other.forwards),
            deepest=max(self.deepest, other.deepest),
            by_size=_table_sums(self.by_size, other.by_size),
            nodes=_node_sums(self.nodes, other.nodes),
            row_rounds=self.row_rounds + other.row_rounds,
            row_tokens=self.row_tokens + other.row_tokens,
        )


def _table_sums(ours: list[list[int]], theirs: list[list[int]]) -> list[list[int]]:
    """The sums of two lists of lists, row by row."""
    return [_sums(mine, other) for mine, other in zip_longest(ours, theirs, fillvalue=[])]


def _node_sums(ours: dict[str, list[int]], theirs: dict[str, list[int]]) -> dict[str, list[int]]:
    """The sums of two counts of nodes, by rank path."""
    sums = {path: list(counts) for path, counts in ours.items()}
    for path, counts in theirs.items():
        sums[path] = _sums(sums.get(path, []), counts)
    return sums


def _sums(ours: list[int], theirs: list[int]) -> list[int]:
    """The sums of two lists; the shorter one counts as zero beyond its end."""
    longer, shorter = (ours, theirs) if len(ours) >= len(theirs) else (theirs, ours)
    sums = list(longer)
    for index, value in enumerate(shorter):
        sums[index] += value
    return sums
