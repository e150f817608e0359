"""A small HTTP server that answers as vLLM with extract_hidden_states does, well or badly.

tests/engines/test_vllm_states.py asks vLLM itself.
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from engine_folders import engine_tensors
from safetensors.torch import save_file
from transformers import PreTrainedModel

WRITING_S = 0.02  # between an answer and its file, as vLLM writes in the background


class EngineReplies:
    """What the server does with its requests.

    Args:
        target: whose states it gives.
        folder: that it writes to.
        state_ids: which states.
        limit: its max_model_len.

    Attributes:
        refusals: statuses of the next answers, before it answers well.
        cuts: how many of the next answers end in the middle.
        asked: the tokens of every text that it was asked for.
        change: what is done to the tensors of a file before it is written.
        answer: fields of every completion, beside or instead of its own.
    """

    def __init__(
        self, target: PreTrainedModel, folder: Path, state_ids: list[int], limit: int = 512
    ):
        self.target = target
        self.folder = folder
        self.state_ids = state_ids
        self.limit = limit
        self.refusals: list[int] = []
        self.cuts = 0
        self.asked: list[list[int]] = []
        self.change: Callable[[dict[str, torch.Tensor]], None] | None = None
        self.answer: dict[str, Any] = {}
        self._lock = threading.Lock()  # the hooks that read states serve one thread at a time

    def models(self) -> dict[str, Any]:
        return {"data": [{"id": "tiny", "max_model_len": self.limit}]}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Write the states of a prompt behind the back of the answer."""
        assert (body["model"], body["max_tokens"]) == ("tiny", 1)
        with self._lock:
            number = len(self.asked)
            self.asked.append(body["prompt"])
            tensors = engine_tensors(self.target, body["prompt"], self.state_ids)
        if self.change is not None:
            self.change(tensors)
        path = self.folder / f"cmpl-{number}.safetensors"
        lock = os.open(f"{path}.lock", os.O_CREAT | os.O_WRONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)

        def write() -> None:
            time.sleep(WRITING_S)
            save_file(tensors, path)
            os.close(lock)

        threading.Thread(target=write).start()
        return {"kv_transfer_params": {"hidden_states_path": str(path)}} | self.answer


class EngineServer:
    """Serves at `url` until its block ends."""

    def __init__(self, replies: EngineReplies):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(replies.models())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply(replies.complete(body))

            def reply(self, answer: dict[str, Any]) -> None:
                status = replies.refusals.pop(0) if replies.refusals else 200
                raw = json.dumps(answer if status == 200 else {"error": "busy"}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                is_cut = replies.cuts > 0
                replies.cuts -= is_cut
                self.wfile.write(raw[: len(raw) // 2] if is_cut else raw)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "EngineServer":
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
