"""Engines are started as `serve-command` says, and their last words are shown when they end."""

import json
import sys
from pathlib import Path

import pytest
from tiny import tiny_head, tiny_target

from eagle_hf.cli import main
from eagle_hf.hub.gate import EngineClient, EngineError, Environment
from eagle_hf.hub.gate.commands import HOST, serving_command
from eagle_hf.hub.gate.launching import Server, free_port

HERE = Path(sys.executable)
# A server that is healthy, lists a model, and ends while it answers.
DYING = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
import os
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"data": [{"id": "tiny"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        print("out of memory", flush=True)
        os._exit(3)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(tmp_path, code, starting_s=30.0):
    port = free_port()
    command = [sys.executable, "-c", code, str(port)]
    return Server(command, f"http://{HOST}:{port}", tmp_path / "log", starting_s=starting_s)


def test_a_server_that_does_not_start_is_quoted(tmp_path):
    code = "print('no kernel for this CPU'); raise SystemExit(7)"
    with (
        pytest.raises(EngineError, match=r"status 7 before it answered(.|\n)*no kernel for this"),
        server(tmp_path, code),
    ):
        pass


def test_a_server_that_never_answers_is_ended(tmp_path):
    code = "import time; print('loading', flush=True); time.sleep(60)"
    with (
        pytest.raises(EngineError, match=r"did not answer in 2 s(.|\n)*loading"),
        server(tmp_path, code, starting_s=1.5) as started,
    ):
        pytest.fail(f"{started.url} answered")


def test_a_server_that_stops_in_the_middle_is_quoted(tmp_path):
    with (
        pytest.raises(EngineError, match=r"the server has stopped(.|\n)*out of memory"),
        server(tmp_path, DYING) as started,
    ):
        EngineClient("llamacpp", started.url).answer([1], 4)


@pytest.mark.parametrize(
    ("engine", "python", "words"),
    [
        ("vllm", Path("/nowhere/python"), "no Python at /nowhere/python"),
        ("sglang", HERE, "no package sglang, so SGLang cannot be started"),
        ("openvino", HERE, "servers that count accepted drafts are vllm"),
    ],
)
def test_a_missing_engine_is_named(engine, python, words):
    with pytest.raises(ValueError, match=words):
        Environment(engine, python)


class Installed(Environment):
    """An environment in which everything is installed."""

    def require(self, package):
        return Path(f"/site/{package}")

    def has_distribution(self, name):
        return name == "vllm" and self.options != ("--vllm-cpu",)

    def program(self, name):
        return None


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    tiny_head(tiny_target()).save_pretrained(folder)
    return folder


def words_of(engine, head, *options):
    environment = Installed(engine, HERE, options)
    return serving_command(environment, Path("/target"), head, 3, "float32", 4000)


def test_vllm_is_started_with_one_chain(head):
    words = words_of("vllm", head)
    assert words[:5] == [str(HERE), "-m", "vllm.entrypoints.cli.main", "serve", "/target"]
    settings = json.loads(words[words.index("--speculative-config") + 1])
    assert settings["num_speculative_tokens"] == 3
    assert (settings["method"], settings["model"]) == ("eagle3", str(head))
    assert words[-6:] == ["--dtype", "float32", "--host", HOST, "--port", "4000"]
    # vllm-cpu lacks the metadata that `vllm serve` asks for
    words = words_of("vllm", head, "--vllm-cpu")
    assert words[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "/target"]


def test_sglang_and_llamacpp_are_started_with_one_chain(head):
    words = words_of("sglang", head)
    assert words[:3] == [str(HERE), "-m", "sglang.launch_server"]
    assert words[words.index("--speculative-num-draft-tokens") + 1] == "4"
    assert words[words.index("--speculative-eagle-topk") + 1] == "1"
    words = words_of("llamacpp", head, "--more")
    assert words[1].endswith("llamacpp_server.py")
    assert words[2:] == ["/target", str(head), "3", "4000", "float32", "--more"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--url", "http://127.0.0.1:1"], "--url without an engine"),
        (["--serve", "vllm", "--target", "t", "--served-model", "m"], "give its --url"),
        (["--serve", "vllm"], "name it: --target"),
        (["--serve", "vllm", "--target", "t", "--fix", "out"], "two steps"),
        (
            ["--serve", "vllm", "--target", "t", "--url", "u", "--export-with", "x"],
            "leave --export-with out",
        ),
    ],
)
def test_flags_that_contradict_each_other_are_refused(head, flags, words, capsys):
    assert main(["check", str(head), *flags]) == 2
    assert words in capsys.readouterr().err
