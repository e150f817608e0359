"""`eagle-hf demo`: what it refuses before it opens anything, and where it listens."""

import sys
from types import SimpleNamespace

import pytest

from eagle_hf import cli
from eagle_hf.demo import serving


def test_a_missing_gradio_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo"]) == 2
    assert "the demo needs gradio" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--port", "70000"], "port is 70000; give one from 1 to 65535"),
        (["--target", "you/your-model"], "no --head was given"),
    ],
)
def test_bad_arguments_are_one_line(monkeypatch, capsys, words, said):
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace())
    assert cli.main(["demo", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "host, expected",
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("box", False)],
)
def test_only_loopback_is_private(host, expected):
    assert serving.is_loopback(host) is expected
