"""Real servers answer: llama.cpp's on the embedded target, transformers' own on a tiny one.

What differs between servers is in their JSON, so llama.cpp's server stands in this process behind
a small HTTP server that passes its JSON on.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from answer_server import AnswerServer, Reply

from eagle_hf import load_target
from eagle_hf.data import IdRecovery, ServingSettings, eos_token_ids, write_served_responses
from eagle_hf.data.answers import RECOVERED, SERVED, TurnStore
from eagle_hf.target.gguf import embedded_smollm2

pytestmark = pytest.mark.slow

pytest.importorskip("aiohttp", reason="answers from servers need aiohttp")
pytest.importorskip("stamina", reason="answers from servers need stamina")

PATIENCE_S = 120
PROMPTS = [
    {"id": "p0", "turns": ["What is 2 + 2?", "And one more?"], "category": "c", "source": "s"},
    {"id": "p1", "turns": ["Name a colour."], "category": "c", "source": "s"},
]


def stored(folder):
    """All finished turns."""
    turns = []
    with TurnStore(folder) as store:
        for prompt in PROMPTS:
            turns += store.turns(prompt["id"])
    return turns


@pytest.fixture
def llamacpp() -> Iterator[AnswerServer]:
    """llama.cpp on the embedded target, called "smollm2"."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp is packaged as xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(embedded_smollm2())
    params.model_alias = {"smollm2"}
    params.n_ctx = 1024
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    engine = xllamacpp.Server(params)

    def answer(server, body):
        return Reply(engine.handle_chat_completions(body))

    with AnswerServer(answer, models=("smollm2",), engine="llamacpp") as server:
        yield server


def test_llamacpp_gives_the_ids_it_sampled_and_counts_our_prompt(llamacpp, tmp_path):
    target, tokenizer = load_target("smollm2")
    stop = eos_token_ids(target, tokenizer)
    settings = ServingSettings(model="smollm2", max_new_tokens=24, concurrency=1, attempts=1)
    recovery = IdRecovery(tokenizer, stop)
    report = write_served_responses([llamacpp.url], PROMPTS, tmp_path, settings, recovery=recovery)
    assert report.finished == 2
    for turn in stored(tmp_path):
        assert (turn.prompt_ids_from, turn.response_ids_from) == (RECOVERED, SERVED)
        assert len(turn.prompt_ids) == turn.prompt_tokens
        assert len(turn.response_ids) == turn.sampled_tokens
        has_ended = turn.response_ids[-1] in stop
        assert has_ended == (turn.finish_reason == "stop")


@pytest.fixture
def transformers_server(target, tokenizer, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """`transformers serve` on a tiny target: its address and the target's folder."""
    pytest.importorskip("fastapi", reason="transformers serves through fastapi")
    pytest.importorskip("openai", reason="transformers serves with the types of openai")
    folder = tmp_path_factory.mktemp("served") / "tiny"
    target.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", start, "serve", str(folder), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(server, url)
        yield url, folder
    finally:
        server.terminate()
        server.wait(30)


def wait_for(server: subprocess.Popen, url: str) -> None:
    """Return when the server answers."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.poll() is None:
        try:
            urlopen(f"{url}/v1/models", timeout=5).close()
            return
        except (URLError, TimeoutError):
            time.sleep(0.5)
    pytest.fail("no answer from `transformers serve`")


def test_transformers_serves_what_is_asked_of_it(transformers_server, tokenizer, tmp_path):
    url, folder = transformers_server
    settings = ServingSettings(
        model=str(folder), max_new_tokens=8, temperature=1.0, concurrency=2, attempts=2
    )
    recovery = IdRecovery(tokenizer, {tokenizer.eos_token_id})
    report = write_served_responses([url], PROMPTS, tmp_path, settings, recovery=recovery)
    assert report.failed == []
    for turn in stored(tmp_path):
        assert turn.prompt_ids_from == RECOVERED
        assert len(turn.prompt_ids) == turn.prompt_tokens
        assert turn.sampled_tokens <= 8
