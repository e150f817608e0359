"""A `generate` call in another thread, whose steps arrive while it runs."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any

import torch

from eagle_hf.decoding.streaming import RoundStreamer
from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.verify import Verdict
from eagle_hf.demo.drafted_tree import DraftedTree

FRAME = 0.1  # seconds between two looks at what has arrived


@dataclass(frozen=True)
class Step:
    """What one forward of the target brought.

    Attributes:
        tokens: in order.
        seconds: since the call began, the prompt's reading included.
        tree: of the round; None where nothing was drafted by a round.
    """

    tokens: list[int]
    seconds: float
    tree: DraftedTree | None


class Stopped(Exception):
    """Raised inside `generate` where nobody wants the answer any more."""


class StepStreamer(RoundStreamer):
    """A streamer that makes steps of what it is shown. The prompt is left out."""

    def __init__(self) -> None:
        self._steps: SimpleQueue[Step] = SimpleQueue()
        self._is_stopped = Event()
        self._tree: DraftedTree | None = None
        self._has_prompt = False
        self._began = time.perf_counter()

    def begin(self) -> None:
        """Take the time, as the call begins."""
        self._began = time.perf_counter()

    def stop(self) -> None:
        """End the call at its next token."""
        self._is_stopped.set()

    def put_round(self, tree: Tree, verdict: Verdict) -> None:
        self._tree = DraftedTree.of_round(tree, verdict)

    def put(self, value: torch.Tensor) -> None:
        if self._is_stopped.is_set():
            raise Stopped
        if not self._has_prompt:
            self._has_prompt = True
            return
        seconds = time.perf_counter() - self._began
        self._steps.put(Step(value.flatten().tolist(), seconds, self._tree))
        self._tree = None

    def end(self) -> None:
        pass

    def arrived(self) -> list[Step]:
        """The steps since the last look."""
        steps = []
        while True:
            try:
                steps.append(self._steps.get_nowait())
            except Empty:
                return steps


class StreamedCall:
    """A call that runs in a thread of an executor. Leaving its `with` block ends it.

    Args:
        generate: the call; it is given the streamer.
        executor: with one thread, calls take turns.
    """

    def __init__(self, generate: Callable[[RoundStreamer], Any], executor: Executor):
        self._streamer = StepStreamer()
        self._generate = generate
        self._running = executor.submit(self._call)

    def __enter__(self) -> "StreamedCall":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the call at its next token, or before it has begun."""
        self._running.cancel()
        self._streamer.stop()

    def frames(self) -> Iterator[list[Step]]:
        """What has arrived since the last frame, a few times a second, until the call has ended."""
        is_done = False
        while not is_done:
            time.sleep(FRAME)
            is_done = self._running.done()  # asked first: what arrived before it is in this frame
            yield self._streamer.arrived()

    def output(self) -> Any:
        """What the call returned; what it raised is raised here."""
        return self._running.result()

    def _call(self) -> Any:
        self._streamer.begin()
        return self._generate(self._streamer)
