"""API keys of servers: from the environment to their own server, and nowhere else."""

import json
from pathlib import Path

import pytest
import torch
from answer_server import AnswerServer, Reply, completion
from streaming_server import StreamingServer
from tiny import tiny_target, word_tokenizer

from eagle_hf.cli import main
from eagle_hf.data.answers.keys import ServerKeys, read_key

ONE = "s3cr3t-of-one"
OTHER = "s3cr3t-of-the-other"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a tiny target and two prompts; both keys are in the environment."""
    target = tiny_target(layers=2, dtype=torch.float32)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    rows = [{"turns": ["w5 w7"]}, {"turns": ["w6 w7"]}]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY_ONE", ONE)
    monkeypatch.setenv("KEY_OTHER", OTHER)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def run(*words: str) -> int:
    """The status of a command that measures the prompts, with its files in the folder out."""
    return main([*words, "--categories", "asked.jsonl", "--out", "out"])


def bench(server: str, *words: str) -> int:
    return run("bench-serving", "--server", server, "--concurrency", "1", *words)


def evaluate(*words: str) -> int:
    flags = "--target target --dtype float32 --max-new-tokens 4"
    return run("evaluate", *flags.split(), *words)


def check_kept_nowhere(folder: Path, printed: str) -> None:
    """Neither key stands in a file or on the screen."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.parent.name == "out" for path in files)
    for key in (ONE, OTHER):
        assert key not in printed
        for path in files:
            assert key.encode() not in path.read_bytes(), path


def test_every_server_of_a_bench_gets_its_own_key(folder, capfd):
    with StreamingServer(key=ONE) as one, StreamingServer(key=OTHER) as other:
        keys = ["--api-key-variable", "KEY_OTHER", "--api-key-variable", "one=KEY_ONE"]
        assert bench(f"one={one.url}", "--server", f"other={other.url}", *keys) == 0
        assert {sent.key for sent in one.sent} == {f"Bearer {ONE}"}
        assert {sent.key for sent in other.sent} == {f"Bearer {OTHER}"}
    runs = json.loads(Path("out/serving.json").read_text())["runs"]
    assert [run["requests"]["failed"] for run in runs] == [{}, {}]
    check_kept_nowhere(folder, "".join(capfd.readouterr()))


def test_every_served_method_gets_its_own_key(folder, capfd):
    def answer(server, body):
        return Reply(completion("w9 w9"))

    with AnswerServer(answer, key=ONE) as one, AnswerServer(answer, key=OTHER) as other:
        methods = ["--methods", f"server:one={one.url}", f"server:other={other.url}"]
        keys = ["--api-key-variable", "one=KEY_ONE", "other=KEY_OTHER"]
        assert evaluate(*methods, *keys) == 0
        assert {sent["authorization"] for sent in one.headers} == {f"Bearer {ONE}"}
        assert {sent["authorization"] for sent in other.headers} == {f"Bearer {OTHER}"}
    rows = json.loads(Path("out/metrics.json").read_text())["rows"]
    served = [row for row in rows if row["method"].startswith("server:")]
    assert {row["method"] for row in served} == {"server:one", "server:other"}
    assert all(not row.get("failed") and not row["errors"] for row in served)
    check_kept_nowhere(folder, "".join(capfd.readouterr()))


def test_the_same_prompts_may_be_asked_with_another_key(folder):
    with AnswerServer(lambda server, body: Reply(completion("w9 w9"))) as server:
        methods = ["--methods", f"server:it={server.url}"]
        assert evaluate(*methods, "--api-key-variable", "KEY_ONE") == 0
        asked = len(server.asked)
        assert evaluate(*methods, "--api-key-variable", "KEY_OTHER") == 0
        assert len(server.asked) == asked


@pytest.mark.parametrize("brought", [[], ["--api-key-variable", "KEY_OTHER"]])
def test_a_refused_key_is_said_without_the_key(folder, capfd, brought):
    with StreamingServer(key=ONE) as server:
        assert bench(f"one={server.url}", *brought) == 2
    said = capfd.readouterr().err
    assert "HTTP 401" in said
    assert "set api_key_variable to the environment variable that holds its key" in said
    assert "OPENAI_API_KEY" in said
    assert OTHER not in said


def test_a_server_that_repeats_the_key_in_a_failure_does_not_get_it_into_files(folder, capfd):
    def repeat(server, body):
        return Reply(f"the key was {ONE}".encode(), status=400)

    with AnswerServer(repeat) as server:
        assert (
            evaluate("--methods", f"server:it={server.url}", "--api-key-variable", "KEY_ONE") == 0
        )
    rows = json.loads(Path("out/metrics.json").read_text())["rows"]
    assert any("the key was [the key]" in reason for row in rows for reason in row["errors"])
    check_kept_nowhere(folder, "".join(capfd.readouterr()))


def test_no_key_is_sent_that_was_not_asked_for(folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", ONE)
    with StreamingServer() as server:
        assert bench(f"one={server.url}") == 0
        assert {sent.key for sent in server.sent} == {""}


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
        (["three=KEY_ONE"], "no server is called 'three'; take of one, two"),
        (["KEY_ONE", "KEY_OTHER"], "name two keys for the same"),
        (["one=KEY_ONE", "one=KEY_OTHER"], "name two keys for the same"),
    ],
)
def test_keys_that_cannot_be_given_are_refused(folder, texts, reason):
    with pytest.raises(ValueError, match=reason):
        ServerKeys.read(texts, ["one", "two"])


def test_a_key_that_no_header_takes_is_refused_without_being_said(monkeypatch):
    monkeypatch.setenv("KEY_ONE", f"{ONE}\nmore")
    with pytest.raises(ValueError, match="no HTTP header takes") as caught:
        read_key("KEY_ONE")
    assert ONE not in str(caught.value)


def test_keys_without_a_server_are_refused_and_no_key_is_shown(folder, capsys):
    assert evaluate("--methods", "lookup", "--api-key-variable", "KEY_ONE") == 2
    assert "no server is asked" in capsys.readouterr().err
    assert ONE not in repr(ServerKeys.read(["KEY_ONE", "one=KEY_ONE"], ["one"]))
