"""Several servers, each asked only so much at once; one that is gone is left alone for a while."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from eagle_hf.data.serving.errors import NoServerError

POLL_S = 0.05  # between two looks for a free server, in seconds
FIRST_REST_S = 0.5  # after the first failure to connect; doubled with each further one
LONGEST_REST_S = 30.0
MOST_DOUBLINGS = 10  # the longest rest is reached before; a power of thousands is no float


@dataclass
class Server:
    """One server and how it does.

    Attributes:
        url: up to and including /v1.
        engine: what it calls itself, such as "vllm".
        in_flight: requests that are on their way.
        failures: how often in a row it could not be connected to.
        gone_since: time of the first of these failures; None while it is well.
        rests_until: time before which it is not asked.
    """

    url: str
    engine: str = ""
    in_flight: int = 0
    failures: int = 0
    gone_since: float | None = None
    rests_until: float = 0.0


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
        """Wait for a server that may be asked, the least busy one; give it back after.

        Raises:
            NoServerError: none has been reachable for `patience_s`.
        """
        while True:
            server = self._least_busy()
            if server is not None:
                server.in_flight += 1
                return server
            self._check_reachable()
            await asyncio.sleep(POLL_S)

    def give_back(self, server: Server) -> None:
        """Note that a request has ended, whichever way."""
        server.in_flight -= 1

    def note_reached(self, server: Server) -> None:
        """Note that a server could be connected to."""
        server.failures = 0
        server.gone_since = None

    def note_gone(self, server: Server) -> None:
        """Leave a server alone that could not be connected to, the longer the more often."""
        now = time.monotonic()
        is_resting = server.rests_until > now
        if is_resting:
            return  # this request was on its way when another one failed
        if server.gone_since is None:
            server.gone_since = now
        doublings = min(server.failures, MOST_DOUBLINGS)
        server.rests_until = now + min(FIRST_REST_S * 2**doublings, LONGEST_REST_S)
        server.failures += 1

    def _least_busy(self) -> Server | None:
        """The server with the fewest requests among those that may be asked."""
        now = time.monotonic()
        free = []
        for server in self.servers:
            # One request tries whether it is back.
            most = 1 if server.failures else self.concurrency
            if server.in_flight < most and server.rests_until <= now:
                free.append(server)
        return min(free, key=_busyness, default=None)

    def _check_reachable(self) -> None:
        """Give up where every server has been gone for too long."""
        now = time.monotonic()
        for server in self.servers:
            if server.gone_since is None or now - server.gone_since < self.patience_s:
                return
        urls = ", ".join(server.url for server in self.servers)
        raise NoServerError(
            f"no server could be reached for {self.patience_s:.0f} s ({urls}); start them and "
            "run again: what is answered is kept"
        )


def _busyness(server: Server) -> int:
    """How many requests a server has."""
    return server.in_flight
