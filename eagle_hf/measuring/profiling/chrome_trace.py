"""The operators of some rounds, read from a trace that torch.profiler has written.

Such a trace is a list of events, each with a beginning `ts` and a duration `dur` in microseconds.
Those of one thread lie inside each other:

    round   |---------------------------------------------|
    phase     |--------- draft ---------|  |-- target --|
    phase         |-- head --|
    operator       |a| |bbb|      |c|        |d| |eeeee|
    inside           |b1|b2|                      |e1|

A call is an operator as Python made it: a, b, c, d and e. What a round or a phase takes besides is
Python's. A captured or compiled graph is a block as well; what it takes besides its operators are
compiled kernels.

A GPU works later than Python asks for it. There, calls are the GPU's kernels, each with the name
and the phase of the operator that launched it, and what is left of a round is the GPU waiting.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagle_hf.decoding.stats import PHASES
from eagle_hf.measuring.profiling.groups import (
    BETWEEN,
    COMPILED,
    OTHER,
    Product,
    kernel_group,
    operator_group,
    read_product,
)

PREFIX = "eagle_hf."  # of the blocks that are ours
ROUND = PREFIX + "round"
NO_PHASE = "outside"  # inside a round, outside of its phases
LAUNCHES = ("cuda_runtime", "cuda_driver")
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
ON_CPU = ("cpu_op", "user_annotation", *LAUNCHES)
# Blocks of torch.compile in which no kernel runs.
_COMPILER_BLOCKS = ("TorchDynamo", "Pregraph", "AOTDispatcher")


@dataclass
class Block:
    """An event on the CPU, with what lies inside it. Times are in seconds."""

    name: str
    category: str
    start: float
    end: float
    arguments: dict[str, Any]
    inside: list["Block"] = field(default_factory=list)

    @property
    def is_operator(self) -> bool:
        """Whether it is an operator; blocks around operators have no namespace."""
        return self.category == "cpu_op" and "::" in self.name

    @property
    def besides(self) -> float:
        """Its seconds outside of what lies inside."""
        return self.end - self.start - sum(block.end - block.start for block in self.inside)


@dataclass(frozen=True)
class Call:
    """An operator as Python called it, or what a phase took besides its operators.

    Attributes:
        round: number of the round, from 0.
        phase: of the round.
        group: one of GROUPS.
        name: of the operator, or of the kernel that no operator launched.
        start: seconds since its round began; None for what lies between operators.
        seconds: that it took.
        product: what it multiplied with weights.
    """

    round: int
    phase: str
    group: str
    name: str
    start: float | None
    seconds: float
    product: Product | None = None


@dataclass(frozen=True)
class Span:
    """A phase of a round, inner ones included; seconds since the round began, and its own."""

    round: int
    phase: str
    start: float
    seconds: float


@dataclass
class TracedRounds:
    """What a trace says of its rounds.

    Attributes:
        seconds: of each round.
        calls: whose seconds add up to those of the rounds.
        spans: the phases, outer ones before inner ones.
    """

    seconds: list[float] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


def read_trace(path: Path, lm_heads: Sequence[int]) -> TracedRounds:
    """Read the rounds of a trace.

    Args:
        path: of the trace, a JSON file.
        lm_heads: the sizes of vocabularies.

    Returns:
        The rounds, in their order.
    """
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    events = [event for event in events if event.get("ph") == "X"]
    kernels = [event for event in events if event.get("cat") in KERNELS]
    reader = _Reader(lm_heads, on_gpu=bool(kernels))
    for number, block in enumerate(find_rounds(events)):
        reader.read_round(number, block)
    for kernel in kernels:
        reader.read_kernel(kernel)
    if kernels:
        reader.add_waiting()
    return reader.rounds


def find_rounds(events: list[dict[str, Any]]) -> list[Block]:
    """The rounds among a trace's events, with all that lies inside them on their thread."""
    rounds = []
    open_blocks: list[Block] = []
    threads = {_thread(event) for event in events if event["name"] == ROUND}
    on_cpu = [event for event in events if event.get("cat") in ON_CPU]
    on_cpu = [event for event in on_cpu if _thread(event) in threads]
    for event in sorted(on_cpu, key=_outer_first):
        start = event["ts"] / 1e6
        end = start + event["dur"] / 1e6
        block = Block(event["name"], event["cat"], start, end, event.get("args", {}))
        while open_blocks and start >= open_blocks[-1].end:
            open_blocks.pop()
        if open_blocks:
            open_blocks[-1].inside.append(block)
        if block.name == ROUND:
            rounds.append(block)
        open_blocks.append(block)
    return rounds


def _thread(event: dict[str, Any]) -> tuple[Any, Any]:
    """Process and thread of an event."""
    return event["pid"], event["tid"]


def _outer_first(event: dict[str, Any]) -> tuple[float, float]:
    """Sorts events by their beginning; of those that begin together, the longest is outside."""
    return event["ts"], -event["dur"]


@dataclass(frozen=True)
class _Launch:
    """Who asked the GPU for a kernel: the operator, if there is one, in a phase of a round."""

    round: int
    phase: str
    name: str | None = None
    group: str = OTHER
    product: Product | None = None


class _Reader:
    """Turns the blocks of rounds into calls."""

    def __init__(self, lm_heads: Sequence[int], on_gpu: bool):
        self.rounds = TracedRounds()
        self._lm_heads = lm_heads
        self._on_gpu = on_gpu
        self._starts: list[float] = []
        self._launches: dict[int, _Launch] = {}

    def read_round(self, number: int, block: Block) -> None:
        """Add a round's calls."""
        self.rounds.seconds.append(block.end - block.start)
        self._starts.append(block.start)
        self._read_block(block, _Launch(number, NO_PHASE))

    def read_kernel(self, kernel: dict[str, Any]) -> None:
        """Add a GPU's kernel. One that no round has launched counts for the first, as OTHER."""
        launch = self._launches.get(kernel.get("args", {}).get("correlation"))
        if launch is None:
            launch = _Launch(0, NO_PHASE, kernel["name"], OTHER)
        name = launch.name or kernel["name"]
        group = launch.group if launch.name else kernel_group(kernel["name"])
        start = kernel["ts"] / 1e6 - self._starts[launch.round]
        seconds = kernel["dur"] / 1e6
        self.rounds.calls.append(
            Call(launch.round, launch.phase, group, name, start, seconds, launch.product)
        )

    def add_waiting(self) -> None:
        """Add what kernels leave of each round."""
        left = list(self.rounds.seconds)
        for call in self.rounds.calls:
            left[call.round] -= call.seconds
        for number, seconds in enumerate(left):
            self.rounds.calls.append(
                Call(number, NO_PHASE, BETWEEN, "GPU without a kernel", None, seconds)
            )

    def _read_block(self, block: Block, launch: _Launch) -> None:
        """Add the calls inside a round, a phase or a graph."""
        for inner in block.inside:
            if inner.category in LAUNCHES:
                self._note_launch(inner, launch)
            elif inner.is_operator:
                self._read_operator(inner, launch)
            elif inner.name.removeprefix(PREFIX) in PHASES:
                self._add_span(inner, launch.round)
                phase = inner.name.removeprefix(PREFIX)
                self._read_block(inner, _Launch(launch.round, phase))
            else:
                self._read_block(inner, launch)
        if not self._on_gpu:
            is_python = block.name.startswith((PREFIX, *_COMPILER_BLOCKS))
            group = BETWEEN if is_python else COMPILED
            name = "Python" if is_python else block.name
            self.rounds.calls.append(
                Call(launch.round, launch.phase, group, name, None, block.besides)
            )

    def _read_operator(self, block: Block, launch: _Launch) -> None:
        """Add an operator's call, or on a GPU note what it launches."""
        arguments = block.arguments
        dims = arguments.get("Input Dims", [])
        product = read_product(block.name, dims, arguments.get("Input type", []))
        group = operator_group(block.name, product, self._lm_heads)
        if self._on_gpu:
            owner = _Launch(launch.round, launch.phase, block.name, group, product)
            self._note_launches(block, owner)
            return
        start = block.start - self._starts[launch.round]
        seconds = block.end - block.start
        self.rounds.calls.append(
            Call(launch.round, launch.phase, group, block.name, start, seconds, product)
        )

    def _note_launches(self, block: Block, owner: _Launch) -> None:
        """Note all launches inside an operator as its own."""
        for inner in block.inside:
            if inner.category in LAUNCHES:
                self._note_launch(inner, owner)
            else:
                self._note_launches(inner, owner)

    def _note_launch(self, block: Block, owner: _Launch) -> None:
        """Note who a kernel belongs to."""
        correlation = block.arguments.get("correlation")
        if correlation is not None:
            self._launches[correlation] = owner

    def _add_span(self, block: Block, number: int) -> None:
        """Add a phase of a round."""
        start = block.start - self._starts[number]
        phase = block.name.removeprefix(PREFIX)
        self.rounds.spans.append(Span(number, phase, start, block.end - block.start))
