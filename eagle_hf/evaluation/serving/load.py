"""When requests are sent: so many at a time, or as they come.

closed loop   N workers, each sends its next request when its last one is answered. Latency rises
              with N until the server is full, then requests wait.
Poisson       requests come at a rate whatever the server does, with exponential gaps. A server
              that is too slow falls behind.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from eagle_hf.data.rows import Prompt
from eagle_hf.evaluation.serving.records import RequestRecord

CLOSED = "closed"
POISSON = "poisson"
Ask = Callable[[Prompt], Awaitable[RequestRecord]]


@dataclass(frozen=True)
class Arrival:
    """How requests arrive.

    Attributes:
        concurrency: requests in flight of a closed loop; None for Poisson arrivals.
        rate: of Poisson arrivals, requests per second; None for a closed loop.
    """

    concurrency: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise ValueError("an arrival has either a concurrency or a rate")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"the concurrency is {self.concurrency}; it must be at least 1")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"the rate is {self.rate} requests/s; it must be above 0")

    def to_json(self) -> dict[str, Any]:
        """The arrival as serving.json holds it."""
        if self.concurrency is not None:
            return {"kind": CLOSED, "concurrency": self.concurrency}
        return {"kind": POISSON, "rate": self.rate}

    def __str__(self) -> str:
        if self.concurrency is not None:
            return f"{self.concurrency} at a time"
        return f"{self.rate:g} requests/s"


def mixed(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """Prompts of all categories in turn, repeated until there are `count`; default: each once."""
    categories: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        categories.setdefault(prompt["category"], []).append(prompt)
    longest = max(len(members) for members in categories.values())
    in_turn = []
    for number in range(longest):
        for members in categories.values():
            in_turn += members[number : number + 1]
    wanted = len(in_turn) if count is None else count
    return [in_turn[number % len(in_turn)] for number in range(wanted)]


async def send_all(ask: Ask, prompts: Sequence[Prompt], arrival: Arrival, seed: int) -> None:
    """Ask every prompt once.

    Args:
        ask: sends a request and keeps what came of it.
        prompts: in the order in which they are sent.
        arrival: when they are sent.
        seed: of Poisson gaps, the same for every server.
    """
    if arrival.rate is not None:
        await _send_as_they_come(ask, prompts, arrival.rate, seed)
        return
    waiting = iter(prompts)
    async with asyncio.TaskGroup() as workers:
        for _ in range(arrival.concurrency or 1):
            workers.create_task(_work(ask, waiting))


async def _work(ask: Ask, waiting: Iterator[Prompt]) -> None:
    """One worker of a closed loop."""
    for prompt in waiting:
        await ask(prompt)


async def _send_as_they_come(ask: Ask, prompts: Sequence[Prompt], rate: float, seed: int) -> None:
    """Send at moments that are fixed beforehand, so that a late one does not shift the next."""
    gaps = numpy.random.default_rng(seed).exponential(1 / rate, len(prompts))
    moments = numpy.cumsum(gaps) - gaps[0]
    clock = asyncio.get_running_loop()
    started = clock.time()
    async with asyncio.TaskGroup() as requests:
        for prompt, moment in zip(prompts, moments.tolist(), strict=True):
            await asyncio.sleep(started + moment - clock.time())
            requests.create_task(_send(ask, prompt))


async def _send(ask: Ask, prompt: Prompt) -> None:
    """One request of its own."""
    await ask(prompt)
