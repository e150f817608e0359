"""A small HTTP server that answers chat completions, well or badly, as a test tells it.

It runs in a thread with an event loop of its own, and speaks HTTP/1.1 over real sockets.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loop_server import LoopServer

MODEL = "tiny"
STATUS_LINES = {200: "OK", 404: "Not Found", 429: "Too Many Requests"}


@dataclass
class Reply:
    """What the server does with one request.

    Attributes:
        body: what it sends, or what is sent as JSON.
        status: of HTTP.
        headers: beside the usual ones.
        delay_s: before it sends anything.
        cut: of the body, the bytes after which the connection is closed.
        hangs_up: close the connection without a word.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: int | None = None
    hangs_up: bool = False


def completion(text: str = "hello", **changes: Any) -> dict[str, Any]:
    """A chat completion; `changes` are fields of the choice, of its message or of the top level."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    payload = {
        "model": MODEL,
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    for name, value in changes.items():
        if name in ("reasoning", "reasoning_content", "thinking", "content"):
            message[name] = value
        elif name in ("finish_reason", "token_ids", "logprobs", "message"):
            choice[name] = value
        else:
            payload[name] = value
    return payload


def with_ids(text: str = "hello", **changes: Any) -> dict[str, Any]:
    """A chat completion as vLLM gives it with return_token_ids."""
    return completion(text, prompt_token_ids=[5, 6, 7], token_ids=[8, 9], **changes)


def last_question(body: dict[str, Any]) -> str:
    """The user turn that a request asks."""
    return body["messages"][-1]["content"]


def answer_well(server: "AnswerServer", body: dict[str, Any]) -> Reply:
    """Echo the question, with token ids."""
    return Reply(with_ids(f"answer to {last_question(body)}", model=body["model"]))


class AnswerServer(LoopServer):
    """Serves until its block ends.

    Args:
        answer: what to do with a request, from the server itself and the request's body.
        models: what /v1/models lists.
        engine: what it calls itself there.
        port: to listen at. Default: any that is free.
        metrics: the page of counters at /metrics. None: there is none.
        key: that a request must bring; None: any, or none. A refusal repeats what was brought.

    Attributes:
        asked: the bodies of all chat completions, in their order.
        counts: how often each question was asked.
        most_at_once: most requests that were in flight together.
    """

    def __init__(
        self,
        answer: "Callable[[AnswerServer, dict[str, Any]], Reply]" = answer_well,
        *,
        models: tuple[str, ...] = (MODEL,),
        engine: str = "vllm",
        port: int = 0,
        metrics: "Callable[[AnswerServer], str] | None" = None,
        key: str | None = None,
    ):
        super().__init__(port)
        self.answer = answer
        self.models = models
        self.engine = engine
        self.metrics = metrics
        self.key = key
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.most_at_once = 0
        self._at_once = 0

    async def open(self) -> tuple[asyncio.Server, int]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return listener, listener.sockets[0].getsockname()[1]

    async def close(self, listener: asyncio.Server) -> None:
        listener.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)  # until they have closed

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, which may carry several requests."""
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its reply; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        headers = {}
        for line in head.split("\r\n")[1:]:
            if line:
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        reply = self._reply(path, headers, raw)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(reply.delay_s)
        finally:
            self._at_once -= 1
        if reply.hangs_up:
            return False
        return await self._send(writer, reply)

    def _reply(self, path: str, headers: dict[str, str], raw: bytes) -> Reply:
        """What is said to a request."""
        brought = headers.get("authorization", "nothing")
        if self.key not in (None, brought.removeprefix("Bearer ")):
            return Reply({"error": f"you brought {brought}"}, 401)
        if path == "/v1/models":
            rows = [{"id": name, "owned_by": self.engine} for name in self.models]
            return Reply({"object": "list", "data": rows})
        if path == "/metrics":
            found = self.metrics is not None
            return Reply(self.metrics(self).encode() if found else b"", 200 if found else 404)
        assert path == "/v1/chat/completions", path
        body = json.loads(raw)
        self.asked.append(body)
        self.headers.append(headers)
        self.counts[last_question(body)] += 1
        return self.answer(self, body)

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        """Send a reply, or its beginning; whether the connection stays open."""
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        head = f"HTTP/1.1 {reply.status} {STATUS_LINES.get(reply.status, 'Status')}\r\n"
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            head += f"{name}: {value}\r\n"
        writer.write(head.encode() + b"\r\n" + body[: reply.cut])
        await writer.drain()
        return reply.cut is None
