"""Several servers, each asked only so much at once; one that is gone is left alone for a while."""

import asyncio
import time
from collections.abc import Callable, Sequence

from eagle_hf.data.answers.errors import NoServerError

POLL_S = 0.05  # between two looks for a free server, in seconds
FIRST_REST_S = 0.5  # after the first failure to connect; doubled with each further one
LONGEST_REST_S = 30.0
MOST_DOUBLINGS = 10  # the longest rest is reached before; a power of thousands is no float


class Server:
    """One server and how it does.

    Args:
        url: up to and including /v1.
        clock: gives seconds.

    Attributes:
        url: as given.
        engine: what it calls itself, such as "vllm"; empty until it has said so.
        in_flight: requests that are on their way.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic):
        self.url = url
        self.engine = ""
        self.in_flight = 0
        self._clock = clock
        self._failures = 0  # to connect, in a row
        self._gone_since: float | None = None  # the first of them
        self._rests_until = 0.0

    def introduce(self, engine: str) -> None:
        """Note what it calls itself."""
        self.engine = engine

    def begin(self) -> None:
        """Note that a request is on its way."""
        self.in_flight += 1

    def end(self) -> None:
        """Note that a request has ended, whichever way."""
        self.in_flight -= 1

    def note_reached(self) -> None:
        """Note that it could be connected to."""
        self._failures = 0
        self._gone_since = None

    def note_gone(self) -> None:
        """Note that it could not be connected to; it rests, the longer the more often."""
        now = self._clock()
        if self._rests_until > now:
            return  # this request was on its way when another one failed
        if self._gone_since is None:
            self._gone_since = now
        doublings = min(self._failures, MOST_DOUBLINGS)
        self._rests_until = now + min(FIRST_REST_S * 2**doublings, LONGEST_REST_S)
        self._failures += 1

    def may_be_asked(self, concurrency: int) -> bool:
        """Whether it may get another request.

        Args:
            concurrency: most requests in flight. Where it was gone, one tries whether it is back.
        """
        most = 1 if self._failures else concurrency
        return self.in_flight < most and self._rests_until <= self._clock()

    def gone_s(self) -> float:
        """For how long it could not be connected to, in seconds."""
        return 0.0 if self._gone_since is None else self._clock() - self._gone_since


class ServerPool:
    """Servers that all serve one model.

    Args:
        servers: at least one.
        concurrency: most requests in flight at each.
        patience_s: how long none of them may be reachable before all is given up, in seconds.
    """

    def __init__(self, servers: Sequence[Server], concurrency: int, patience_s: float):
        self.servers = servers
        self.concurrency = concurrency
        self.patience_s = patience_s

    async def take(self) -> Server:
        """Wait for the least busy server that may be asked, and begin a request there.

        Raises:
            NoServerError: none has been reachable for `patience_s`.
        """
        while True:
            free = [server for server in self.servers if server.may_be_asked(self.concurrency)]
            if free:
                server = min(free, key=_busyness)
                server.begin()
                return server
            self._check_reachable()
            await asyncio.sleep(POLL_S)

    def _check_reachable(self) -> None:
        """Give up where every server has been gone for too long."""
        if any(server.gone_s() < self.patience_s for server in self.servers):
            return
        urls = ", ".join(server.url for server in self.servers)
        raise NoServerError(
            f"no server could be reached for {self.patience_s:.0f} s ({urls}); start them and "
            "run again: what is answered is kept"
        )


def _busyness(server: Server) -> int:
    """How many requests a server has."""
    return server.in_flight
