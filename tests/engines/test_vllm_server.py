"""The very script that `eagle-hf serve-command` prints starts vLLM.

vLLM then answers over HTTP and accepts drafts.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from driving import environment, need
from ours import Case

from eagle_hf.cli import main
from eagle_hf.data.answers.draft_counts import read_counters

pytestmark = pytest.mark.engine

PORT = 8000  # vLLM's own default; the script names none
URL = f"http://127.0.0.1:{PORT}"
PATIENCE = 600  # seconds, mostly compiling


@pytest.fixture
def log(smollm2: Case, tmp_path: Path, capsys: pytest.CaptureFixture) -> Iterator[Path]:
    """The log of a server that runs while the test does."""
    need("vllm")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"something listens on port {PORT}, where vLLM would")
    command = ["serve-command", str(smollm2.head_folder), "--engine", "vllm"]
    command += ["--target", str(smollm2.target_folder)]
    assert main(command) == 0
    script = capsys.readouterr().out
    path = tmp_path / "log"
    with open(path, "w") as file:
        server = subprocess.Popen(
            ["bash", "-c", script],
            env=environment("vllm"),
            stdout=file,
            stderr=file,
            start_new_session=True,  # so that the processes it starts end with it
        )
    try:
        wait_for(server, path)
        yield path
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def wait_for(server: subprocess.Popen, log: Path) -> None:
    """Return when the server answers; fail with its last words if it ends before."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and server.poll() is None:
        try:
            urlopen(f"{URL}/health", timeout=5).close()
            return
        except (URLError, TimeoutError):
            time.sleep(2)
    pytest.fail(f"no answer from the server:\n{log.read_text()[-4000:]}")


def accepted_drafts() -> int:
    """How many drafts the server has accepted, by its own metrics."""
    with urlopen(f"{URL}/metrics", timeout=30) as reply:
        counts = read_counters(reply.read().decode())
    assert counts is not None, "the server drafts nothing"
    return counts.accepted


@pytest.mark.usefixtures("log")
def test_the_printed_command_serves(smollm2):
    question = {
        "model": str(smollm2.target_folder),
        "prompt": smollm2.prompts[1],
        "max_tokens": 48,
        "temperature": 0,
    }
    body = json.dumps(question).encode()
    request = Request(f"{URL}/v1/completions", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as reply:
        text = json.load(reply)["choices"][0]["text"]
    accepted = accepted_drafts()
    print(f"{text!r}, accepted drafts: {accepted}")
    assert text.strip()
    assert accepted > 0
