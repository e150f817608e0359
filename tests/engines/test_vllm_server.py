"""The very script that `eagle-hf serve-command` prints starts vLLM, which answers over HTTP and accepts drafts."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from driving import environment, need

from eagle_hf.cli import main

pytestmark = pytest.mark.engine

URL = "http://127.0.0.1:8000"  # vLLM's own default; the script names none
PATIENCE = 600  # seconds, mostly compiling


@pytest.fixture
def log(smollm2, tmp_path, capsys):
    """What a server says that runs while the test does."""
    need("vllm")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("something listens on port 8000, where vLLM would")
    assert (
        main(
            [
                "serve-command",
                str(smollm2.head_folder),
                "--engine",
                "vllm",
                "--target",
                str(smollm2.target_folder),
            ]
        )
        == 0
    )
    script, path = capsys.readouterr().out, tmp_path / "log"
    with open(path, "w") as file:
        server = subprocess.Popen(
            ["bash", "-c", script],
            env=environment("vllm"),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for(server, path)
        yield path
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def wait_for(server, log) -> None:
    """Return when the server answers; fail with its last words if it ends before."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and server.poll() is None:
        try:
            return urlopen(f"{URL}/health", timeout=5).close()
        except (URLError, TimeoutError):
            time.sleep(2)
    pytest.fail(f"no answer from the server:\n{log.read_text()[-4000:]}")


def test_the_printed_command_serves(smollm2, log):
    question = {
        "model": str(smollm2.target_folder),
        "prompt": smollm2.prompts[1],
        "max_tokens": 48,
        "temperature": 0,
    }
    request = Request(
        f"{URL}/v1/completions", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=120) as reply:
        text = json.load(reply)["choices"][0]["text"]
    with urlopen(f"{URL}/metrics", timeout=30) as metrics:
        accepted = re.findall(
            r"^vllm:spec_decode_num_accepted_tokens_total\S* (\S+)",
            metrics.read().decode(),
            re.MULTILINE,
        )
    print(f"{text!r}, accepted drafts: {accepted}")
    assert text.strip() and float(accepted[0]) > 0
