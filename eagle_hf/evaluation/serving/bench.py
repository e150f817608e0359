"""The bench: every load on every server, one server at a time."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from eagle_hf.data.answers.draft_counts import DraftCounts, ask_counters
from eagle_hf.data.answers.errors import WrongServerError
from eagle_hf.data.answers.exchange import open_session
from eagle_hf.data.answers.keys import ServerKeys
from eagle_hf.data.answers.wire import WRONG_SERVER_STATUSES
from eagle_hf.data.optional import require
from eagle_hf.data.rows import Prompt
from eagle_hf.evaluation.serving.client import StreamClient
from eagle_hf.evaluation.serving.kept import KeptRequests
from eagle_hf.evaluation.serving.load import Arrival, mixed, send_all
from eagle_hf.evaluation.serving.measures import ALL
from eagle_hf.evaluation.serving.records import INTERRUPTED, RequestRecord
from eagle_hf.evaluation.serving.servers import NamedServer, OpenServer, open_servers
from eagle_hf.evaluation.serving.settings import BenchSettings

WARM_UP_TOKENS = 8
SETTLE_S = 0.3  # engines count a little after they have answered
COUNTERS_S = 10.0  # most seconds for a page of counters


async def bench_servers(
    servers: Sequence[NamedServer],
    prompts: Sequence[Prompt],
    arrivals: Sequence[Arrival],
    settings: BenchSettings,
    kept: KeptRequests,
    *,
    model: str | None = None,
    keys: ServerKeys | None = None,
    each_category: bool = False,
    after_run: Callable[[], None] | None = None,
) -> None:
    """Measure servers; what the folder has is not measured again.

    Args:
        servers: which. Only one is asked at a time, so they may share a machine.
        prompts: rows with `id`, `turns` and `category`; first turns are asked.
        arrivals: the loads, one after the other; servers take turns in each.
        settings: how they are asked.
        kept: where the requests go.
        model: its name on the servers. None: the only one that a server lists.
        keys: of the servers, and kept nowhere. None: no server gets one.
        each_category: after the mixed run, one of each category alone: then it has a throughput,
            and the server's counters belong to it.
        after_run: is called when a run has ended, and a long bench may be looked at.

    Raises:
        ValueError: a package is missing, there are no prompts, a server cannot be reached, does
            not list the model, or refuses it.
    """
    require("aiohttp", "aiohttp", "asking servers", "serving")
    if not prompts:
        raise ValueError("there are no prompts to ask; give a category or file that holds some")
    keys = keys or ServerKeys()
    opened = await open_servers(servers, model, keys)
    runner = _Runner(settings, kept, keys)
    for arrival in arrivals:
        for category, own in _groups(prompts, each_category):
            in_turn = mixed(own, settings.requests)
            for server in opened:
                if not kept.is_measured(server, arrival, category):
                    await runner.measure(server, in_turn, arrival, category)
                    if after_run is not None:
                        after_run()


def _groups(prompts: Sequence[Prompt], each: bool) -> Iterator[tuple[str, list[Prompt]]]:
    """All prompts, and then those of each category."""
    yield ALL, list(prompts)
    categories = list(dict.fromkeys(prompt["category"] for prompt in prompts))
    if each and len(categories) > 1:
        for category in categories:
            yield category, [prompt for prompt in prompts if prompt["category"] == category]


@dataclass(frozen=True)
class _Runner:
    """What the runs of a bench have in common."""

    settings: BenchSettings
    kept: KeptRequests
    keys: ServerKeys

    async def measure(
        self, server: OpenServer, prompts: Sequence[Prompt], arrival: Arrival, category: str
    ) -> None:
        """One run: warm up, read the counters, ask, and read them again."""
        await self._warm_up(server, prompts)
        before = await self._counters(server)
        run = self.kept.begin(server, arrival, category)
        async with open_session(self.settings.timeout_s, self._key(server)) as session:
            client = StreamClient(session, server, self.settings, time.perf_counter())

            async def ask(prompt: Prompt) -> RequestRecord:
                record = await client.ask(prompt)
                self.kept.add(run, record)
                if record.failure == INTERRUPTED:
                    raise asyncio.CancelledError
                return record

            await send_all(ask, prompts, arrival, self.settings.seed)
        acceptance = None
        if before is not None:
            await asyncio.sleep(SETTLE_S)
            after = await self._counters(server)
            if after is not None:
                acceptance = after.since(before).acceptance("the server's counters")
        self.kept.end(run, acceptance)

    async def _warm_up(self, server: OpenServer, prompts: Sequence[Prompt]) -> None:
        """Ask a few short answers; WrongServerError where the server takes no request at all."""
        settings = self.settings
        refusals = [f"HTTP {status}" for status in WRONG_SERVER_STATUSES]
        async with open_session(settings.timeout_s, self._key(server)) as session:
            client = StreamClient(session, server, settings, time.perf_counter())
            for number in range(settings.warm_up):
                prompt = prompts[-1 - number % len(prompts)]
                record = await client.ask(prompt, WARM_UP_TOKENS)
                if record.failure == INTERRUPTED:
                    raise asyncio.CancelledError
                if record.failure in refusals:
                    raise WrongServerError(
                        f"{server.server.label} at {server.server.url} refuses {server.model!r} "
                        f"({record.failure}: {record.detail}); what was measured before is kept"
                    )

    async def _counters(self, server: OpenServer) -> DraftCounts | None:
        """The server's counters of drafts; None where it offers none."""
        async with open_session(COUNTERS_S, self._key(server)) as session:
            return await ask_counters(session, server.server.url)

    def _key(self, server: OpenServer) -> str | None:
        """What the server is sent as its key."""
        return self.keys.of(server.server.label)
