"""A server that speaks as vLLM does, and loads an exported head as this package does.

It can also read the head wrong, and break off.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from eagle_hf import Eagle3DraftHead
from eagle_hf.hub.gate.client import ACCEPTED, ROUNDS
from eagle_hf.hub.gate.drafting import generate_chain

MODEL = "tiny"


class StubEngine:
    """What a server of a target and a head says.

    Args:
        target: The target.
        head: The head that is served; None for answers without drafts.
        depth: Drafts of a chain.

    Attributes:
        breaks_off_after: Answers after which connections are closed without a word.
        raw: Bodies that are sent instead of its own, by path.
        missing: Counters that it does not have.
    """

    def __init__(self, target: Any, head: Any = None, depth: int = 3) -> None:
        self.target = target
        self.head = head
        self.depth = depth
        self.breaks_off_after: int | None = None
        self.raw: dict[str, bytes] = {}
        self.missing: set[str] = set()
        self.rounds = 0
        self.accepted = 0
        self.answers = 0

    def reply(self, path: str, body: dict[str, Any]) -> bytes | None:
        """The body of a reply; None to hang up."""
        if path in self.raw:
            return self.raw[path]
        if path == "/v1/models":
            return json.dumps({"data": [{"id": MODEL}]}).encode()
        if path == "/metrics":
            return self._metrics().encode()
        if path == "/tokenize":
            return b"{}"
        if path != "/v1/completions" or self.answers == self.breaks_off_after:
            return None
        return json.dumps(self._complete(body)).encode()

    def _metrics(self) -> str:
        lines = ["# TYPE vllm:spec_decode_num_drafts_total counter"]
        for name, value in ((ROUNDS, self.rounds), (ACCEPTED, self.accepted)):
            if name not in self.missing:
                lines.append(f'{name}{{engine="0",model_name="{MODEL}"}} {float(value)}')
        return "\n".join(lines) + "\n"

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["temperature"] == 0
        assert body["return_token_ids"]
        self.answers += 1
        if self.head is None:
            return {"choices": [{"token_ids": [5] * body["max_tokens"]}]}
        tokens, rounds = generate_chain(
            self.target, self.head, body["prompt"], body["max_tokens"], self.depth
        )
        self.rounds += rounds.rounds
        self.accepted += rounds.accepted
        return {"choices": [{"token_ids": tokens}]}


@contextmanager
def serving(stub: StubEngine) -> Iterator[str]:
    """The address at which it serves while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(stub.reply(self.path, {}))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(stub.reply(self.path, json.loads(body)))

        def _send(self, body: bytes | None) -> None:
            if body is None:
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stub_server(
    target: Any, load: Callable[[Eagle3DraftHead], Eagle3DraftHead] | None = None
) -> Callable[..., Any]:
    """What `Gate.run` starts an engine with.

    Args:
        target: The opened target.
        load: What becomes of a head when the engine loads it; default: nothing.
    """

    @contextmanager
    def serve(target_folder: Path, head: Path, dtype: str) -> Iterator[str]:
        loaded = Eagle3DraftHead.from_pretrained(head, dtype=target.dtype).eval()
        if load is not None:
            loaded = load(loaded)
        with serving(StubEngine(target, loaded)) as url:
            yield url

    return serve
