"""A server that streams chat completions with known delays, well or badly, as a test tells it.

It runs in a thread with an event loop of its own, and notes when it sends.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from loop_server import LoopServer

MODEL = "tiny"


@dataclass
class Script:
    """How one request is answered.

    Attributes:
        chunks: tokens of each chunk.
        first_s, next_s: seconds before the first chunk, and before each further one.
        counts: "each": a running count in every chunk; "total": in the last one; "none".
        status: of HTTP; other than 200, nothing is streamed.
        breaks_after: the connection is closed behind so many chunks.
        error_after: an error is sent behind so many chunks.
        drafts: what the last chunk says of the answer's drafts.
    """

    chunks: list[int] = field(default_factory=lambda: [1, 2, 3])
    first_s: float = 0.0
    next_s: float = 0.0
    counts: str = "each"
    status: int = 200
    breaks_after: int | None = None
    error_after: int | None = None
    drafts: dict[str, Any] | None = None


@dataclass
class Sent:
    """What the server did with one request, by `time.perf_counter()`.

    Attributes:
        body: that was asked.
        asked: when.
        port: of the client's end of the connection.
        key: what came as the header Authorization; "" where none did.
        times: of each chunk with tokens.
        chunks: tokens of each.
    """

    body: dict[str, Any]
    asked: float
    port: int
    key: str = ""
    times: list[float] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        return self.times[0] - self.asked

    @property
    def e2e(self) -> float:
        return self.times[-1] - self.asked

    @property
    def tpot(self) -> float:
        return (self.e2e - self.ttft) / (sum(self.chunks) - 1)

    @property
    def gaps(self) -> list[float]:
        gaps = []
        for number in range(1, len(self.times)):
            tokens = self.chunks[number]
            gaps += [(self.times[number] - self.times[number - 1]) / tokens] * tokens
        return gaps


class StreamingServer(LoopServer):
    """Serves at `url` until its block ends.

    Args:
        script: how the n-th request is answered, by its number and body.
        engine: what it calls itself.
        metrics: what it writes at /metrics; None: no such page.
        models: that it lists.
        port: where it listens; 0: a free one.
        key: that a request must bring; None: any, or none. A refusal repeats what was brought.

    Attributes:
        sent: every request, in the order of arrival.
        most_at_once: the most requests in flight.
    """

    def __init__(
        self,
        script: Callable[[int, dict[str, Any]], Script] | None = None,
        *,
        engine: str = "vllm",
        metrics: Callable[[], str] | None = None,
        models: tuple[str, ...] = (MODEL,),
        port: int = 0,
        key: str | None = None,
    ):
        super().__init__(port)
        self.script = script or (lambda number, body: Script())
        self.engine = engine
        self.metrics = metrics
        self.models = models
        self.key = key
        self.sent: list[Sent] = []
        self.most_at_once = 0
        self._at_once = 0

    async def open(self) -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/health", self._list_models)
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        return runner, runner.addresses[0][1]

    async def close(self, listener: web.AppRunner) -> None:
        await listener.cleanup()

    async def _list_models(self, request: web.Request) -> web.Response:
        if not self._may(request):
            return self._refuse(request)
        rows = [{"id": name, "owned_by": self.engine} for name in self.models]
        return web.json_response({"object": "list", "data": rows})

    def _may(self, request: web.Request) -> bool:
        return self.key in (None, request.headers.get("Authorization", "").removeprefix("Bearer "))

    def _refuse(self, request: web.Request) -> web.Response:
        brought = request.headers.get("Authorization", "nothing")
        return web.json_response({"error": f"you brought {brought}"}, status=401)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        if self.metrics is None:
            return web.Response(status=404)
        return web.Response(text=self.metrics())

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = time.perf_counter()
        if not self._may(request):
            return self._refuse(request)
        port = request.transport.get_extra_info("peername")[1]
        key = request.headers.get("Authorization", "")
        sent = Sent(await request.json(), asked, port, key)
        self.sent.append(sent)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            script = self.script(len(self.sent) - 1, sent.body)
            if script.status != 200:
                return web.json_response({"error": "no"}, status=script.status)
            return await self._stream(request, script, sent)
        finally:
            self._at_once -= 1

    async def _stream(self, request: web.Request, script: Script, sent: Sent) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
        await self._write(response, role | _usage(0, script))
        count = 0
        for number, tokens in enumerate(script.chunks):
            if number == script.breaks_after:
                request.transport.abort()
                return response
            if number == script.error_after:
                await self._write(response, {"error": {"message": "out of memory"}})
                return response
            await asyncio.sleep(script.next_s if number else script.first_s)
            count += tokens
            choice = {"index": 0, "delta": {"content": "word " * tokens}}
            sent.times.append(time.perf_counter())
            sent.chunks.append(tokens)
            await self._write(response, {"choices": [choice]} | _usage(count, script))
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await self._write(response, last | _usage(count, script))
        if script.counts != "none":
            total: dict[str, Any] = {"choices": [], "usage": {"completion_tokens": count}}
            if script.drafts is not None:
                total["metrics"] = {"speculative_decoding": script.drafts}
            await self._write(response, total)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _write(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


def _usage(count: int, script: Script) -> dict[str, Any]:
    """The running count, where the script has one."""
    return {"usage": {"completion_tokens": count}} if script.counts == "each" else {}
