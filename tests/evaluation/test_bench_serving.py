"""`eagle-hf bench-serving` against a real streaming server whose delays are known."""

import json
import os
import signal
import statistics
from pathlib import Path

import numpy
import pytest
from streaming_server import MODEL, Script, Sent, StreamingServer
from tiny import word_tokenizer

from eagle_hf.cli import main

FIVE_PERCENT = 0.05
HERE = str(Path(__file__).parent)  # a folder without a tokenizer


@pytest.fixture
def prompts(tmp_path) -> str:
    """A file of six prompts in two categories."""
    path = tmp_path / "prompts.jsonl"
    rows = []
    for number in range(6):
        category = ("chat", "code")[number % 2]
        rows.append({"id": f"p{number}", "turns": [f"say {number}"], "category": category})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def bench(folder, prompts, *arguments: str, status: int = 0) -> dict:
    """serving.json of a bench."""
    command = ["bench-serving", *arguments, "--categories", prompts, "--out", str(folder)]
    assert main(command) == status
    return json.loads((folder / "serving.json").read_text())


def whole_run(content: dict, label: str = "plain") -> dict:
    """The one run over all categories of a label."""
    (run,) = [run for run in content["runs"] if run["label"] == label and run["category"] == "all"]
    return run


def one_at_a_time(server: StreamingServer, label: str = "plain") -> list[str]:
    return ["--server", f"{label}={server.url}", "--concurrency", "1", "--warm-up", "0"]


def largest_error(run: dict, sent: list[Sent]) -> float:
    """The largest relative difference of a run's measures to what the server's clock says."""
    seconds = max(request.times[-1] for request in sent) - min(request.asked for request in sent)
    by_name = {
        "ttft_ms": [request.ttft for request in sent],
        "tpot_ms": [request.tpot for request in sent],
        "itl_ms": [gap for request in sent for gap in request.gaps],
        "e2e_ms": [request.e2e for request in sent],
    }
    throughput = sum(sum(request.chunks) for request in sent) / seconds
    errors = [abs(run["output_tokens_s"] / throughput - 1)]
    for name, values in by_name.items():
        errors.append(abs(run[name]["median"] / (1000 * statistics.median(values)) - 1))
    return max(errors)


def test_measures_agree_with_the_servers_own_clock(tmp_path, prompts):
    def script(number, body):
        return Script(chunks=[1, 3, 2, 4], first_s=0.3, next_s=0.16)

    errors = []
    # A busy machine may wake one of the two clocks late; a wrong measure is wrong each time.
    while len(errors) < 3 and min(errors, default=1.0) > FIVE_PERCENT:
        with StreamingServer(script) as server:
            arguments = ["--server", f"plain={server.url}", "--concurrency", "2", "--warm-up", "1"]
            run = whole_run(bench(tmp_path / str(len(errors)), prompts, *arguments))
        assert server.most_at_once == 2
        assert run["requests"] == {"sent": 6, "finished": 6, "failed": {}}
        errors.append(largest_error(run, server.sent[1:]))
    assert min(errors) <= FIVE_PERCENT, errors


def test_requests_come_when_the_seed_says(tmp_path, prompts):
    with StreamingServer(lambda number, body: Script(first_s=0.3)) as server:
        content = bench(
            tmp_path,
            prompts,
            "--server",
            f"plain={server.url}",
            "--rate",
            "10",
            "--warm-up",
            "0",
            "--seed",
            "3",
        )
        asked = [request.asked - server.sent[0].asked for request in server.sent]
        most_at_once = server.most_at_once
    gaps = numpy.random.default_rng(3).exponential(0.1, 6)[1:]
    assert asked == pytest.approx([0, *numpy.cumsum(gaps)], abs=0.05)
    assert most_at_once > 1  # an answer takes longer than a gap
    assert whole_run(content)["arrival"] == {"kind": "poisson", "rate": 10.0}


def test_failures_are_counted_and_the_others_measured(tmp_path, prompts):
    scripts = [
        Script(),
        Script(status=500),
        Script(breaks_after=1),
        Script(error_after=1),
        Script(chunks=[]),
        Script(),
    ]
    with StreamingServer(lambda number, body: scripts[number]) as server:
        run = whole_run(bench(tmp_path, prompts, *one_at_a_time(server)))
    assert run["requests"] == {
        "sent": 6,
        "finished": 2,
        "failed": {
            "HTTP 500": 1,
            "the stream broke off": 1,
            "an error in the stream": 1,
            "an answer without tokens": 1,
        },
    }
    assert run["ttft_ms"] is not None
    kept = (tmp_path / "requests.jsonl").read_text()
    assert "out of memory" in kept  # the detail of a failure


def test_a_stream_without_usage_keeps_its_times(tmp_path, prompts, capsys):
    with StreamingServer(lambda number, body: Script(counts="none")) as server:
        run = whole_run(bench(tmp_path, prompts, *one_at_a_time(server)))
    assert run["requests"]["without_token_counts"] == 6
    assert run["ttft_ms"]["median"] > 0
    assert (run["tpot_ms"], run["itl_ms"], run["output_tokens_s"]) == (None, None, None)
    assert "6 without token counts" in capsys.readouterr().out


def test_usage_at_the_end_gives_tpot_but_no_itl(tmp_path, prompts):
    with StreamingServer(lambda number, body: Script(counts="total", next_s=0.01)) as server:
        run = whole_run(bench(tmp_path, prompts, *one_at_a_time(server)))
    assert run["tpot_ms"]["median"] > 0
    assert run["output_tokens_s"] > 0
    assert run["itl_ms"] is None


def test_engines_are_asked_for_counts_and_for_no_prefix_cache(tmp_path, prompts):
    with StreamingServer(engine="vllm") as server:
        bench(tmp_path / "vllm", prompts, *one_at_a_time(server))
        bodies = [request.body for request in server.sent]
    assert all(body["stream_options"]["continuous_usage_stats"] for body in bodies)
    assert len({body["cache_salt"] for body in bodies}) == 6
    with StreamingServer(engine="llamacpp") as server:
        bench(tmp_path / "llamacpp", prompts, *one_at_a_time(server))
        body = server.sent[0].body
    assert (body["timings_per_token"], body["cache_prompt"]) == (True, False)
    with StreamingServer(engine="other") as server:
        fields = '{"stream_options": null, "top_k": 5}'
        bench(tmp_path / "other", prompts, *one_at_a_time(server), "--request-fields", fields)
        body = server.sent[0].body
    assert "stream_options" not in body
    assert "cache_salt" not in body
    assert body["top_k"] == 5


def test_every_request_has_a_connection_of_its_own(tmp_path, prompts):
    """Servers that close a connection behind an answer would fail the next request on it."""
    with StreamingServer() as server:
        bench(tmp_path, prompts, *one_at_a_time(server))
    assert len({request.port for request in server.sent}) == 6


def test_acceptance_comes_from_the_servers_counters_and_answers(tmp_path, prompts):
    drafts = {"acceptance_histogram": [1, 0, 1], "num_draft_tokens": 4}

    def metrics():
        text = ""
        counts = {"drafts": 2, "draft_tokens": 4, "accepted_tokens": 3}
        for name, each in counts.items():
            number = each * len(server.sent)
            text += f"# TYPE vllm:spec_decode_num_{name}_total counter\n"
            text += f"vllm:spec_decode_num_{name}_total {number}\n"
        return text

    with StreamingServer(lambda number, body: Script(drafts=drafts), metrics=metrics) as server:
        content = bench(tmp_path, prompts, *one_at_a_time(server))
    run = whole_run(content)
    assert run["acceptance"]["tau"] == 2.5  # 6 requests: 12 rounds, 18 accepted
    assert run["acceptance"]["source"] == "the server's counters"
    (chat,) = [run for run in content["runs"] if run["category"] == "chat"]
    assert chat["acceptance"]["tau"] == 2.0  # by its answers: 2 rounds, 2 accepted
    assert chat["acceptance"]["alpha"] == [0.5, 1.0]
    assert chat["requests"]["sent"] == 3
    assert chat["output_tokens_s"] is None


def test_two_servers_stand_side_by_side_with_definitions(tmp_path, prompts, capsys):
    def slowly(number, body):
        return Script(first_s=0.1)  # so that a busy machine has three in flight at last

    with StreamingServer(slowly) as plain, StreamingServer(slowly, engine="llamacpp") as head:
        arguments = ["--server", f"plain={plain.url}", "--server", f"with head={head.url}"]
        arguments += ["--concurrency", "1", "3", "--goodput", "ttft:60000", "--each-category"]
        content = bench(tmp_path, prompts, *arguments)
        assert max(plain.most_at_once, head.most_at_once) == 3
    output = capsys.readouterr().out
    assert "| plain | 1 at a time | 6 of 6 |" in output
    assert "| with head | 3 at a time | 6 of 6 |" in output
    assert "(e2e - ttft) / (tokens - 1)" in output
    assert set(content) == {
        "schema",
        "kind",
        "machine",
        "versions",
        "settings",
        "definitions",
        "runs",
    }
    assert (content["schema"], content["kind"]) == (1, "serving")
    assert len(content["runs"]) == 2 * 2 * 3  # servers, loads, categories and all
    for run in content["runs"]:
        assert run["output_tokens_s"] > 0  # categories were measured by themselves
        assert run["goodput"]["limits"] == {"ttft_ms": 60000.0}
        assert run["goodput"]["requests_s"] > 0


@pytest.fixture
def interruptible():
    """Interrupts reach Python, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_bench_keeps_its_requests_and_goes_on(tmp_path, prompts, interruptible):
    def interrupting(number, body):
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return Script(next_s=0.05)

    with StreamingServer(interrupting) as server:
        arguments = ["--server", f"plain={server.url}", "--warm-up", "0", "--concurrency", "1", "2"]
        content = bench(tmp_path, prompts, *arguments, status=130)
        run = whole_run(content)
        assert run["interrupted"]
        assert run["requests"] == {"sent": 4, "finished": 3, "failed": {"interrupted": 1}}
        assert run["tpot_ms"]["median"] > 0
        server.script = lambda number, body: Script()
        content = bench(tmp_path, prompts, *arguments)
        assert len(server.sent) == 4 + 12
        bench(tmp_path, prompts, *arguments)
        assert len(server.sent) == 4 + 12  # nothing is asked again
    one, two = [run for run in content["runs"] if run["category"] == "all"]
    assert "interrupted" not in one
    assert (one["requests"]["finished"], two["requests"]["finished"]) == (6, 6)


def test_a_server_can_be_added_to_a_folder_and_other_settings_cannot(tmp_path, prompts, capsys):
    with StreamingServer() as plain, StreamingServer() as head:
        bench(tmp_path, prompts, *one_at_a_time(plain))
        content = bench(tmp_path, prompts, *one_at_a_time(head, "with head"))
        assert {run["label"] for run in content["runs"]} == {"plain", "with head"}
        longer = [*one_at_a_time(plain), "--max-new-tokens", "64"]
        bench(tmp_path, prompts, *longer, status=2)
        assert "max_new_tokens was 128, and is 64" in capsys.readouterr().err
    with StreamingServer(engine="sglang") as other:
        bench(tmp_path, prompts, *one_at_a_time(other), status=2)
        assert "give another label or --out" in capsys.readouterr().err


def test_half_a_line_of_a_killed_process_is_measured_again(tmp_path, prompts):
    with StreamingServer() as server:
        bench(tmp_path, prompts, *one_at_a_time(server))
        file = tmp_path / "requests.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:4]) + lines[4][:20])
        run = whole_run(bench(tmp_path, prompts, *one_at_a_time(server)))
        assert len(server.sent) == 12
    assert run["requests"]["finished"] == 6


def test_result_files_stand_beside_measured_servers(tmp_path, prompts, capsys):
    results = os.path.join(os.path.dirname(__file__), "serving_results", "aiperf.json")
    bench(tmp_path, prompts, "--read", f"theirs={results}")
    with StreamingServer() as server:
        content = bench(tmp_path, prompts, *one_at_a_time(server))
    assert {run["label"] for run in content["runs"]} == {"plain", "theirs"}
    bench(tmp_path, prompts, "--read", f"theirs={results}", status=2)
    assert "measured here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ([], "give --server LABEL=URL, or --read LABEL=FILE"),
        (["--server", "plain=localhost:8000"], "write http://"),
        (["--server", "a=http://x", "--server", "a=http://y"], "two servers are called 'a'"),
        (["--server", "plain=http://127.0.0.1:9"], "start the server, or leave it out"),
        (["--server", "plain={url}", "--model", "other"], "'other' is not among them"),
        (["--server", "plain={url}", "--tokenizer", HERE], "holds no tokenizer"),
        (["--server", "plain={url}", "--concurrency", "0"], "must be at least 1"),
        (["--server", "plain={url}", "--max-new-tokens", "1"], "at least 2 are needed"),
        (["--server", "plain={url}", "--api-key-variable", "NO_SUCH_KEY"], "is not set"),
        (["--server", "plain={url}", "--request-fields", '{"seed": 1}'], "leave it out"),
    ],
)
def test_bad_input_is_a_clear_error(tmp_path, prompts, capsys, arguments, reason):
    with StreamingServer() as server:
        words = [word.format(url=server.url) if "{url}" in word else word for word in arguments]
        command = ["bench-serving", *words, "--categories", prompts, "--out", str(tmp_path)]
        assert main(command) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "serving.json").exists()


def test_a_model_that_is_listed_and_refused_ends_the_bench(tmp_path, prompts, capsys):
    with StreamingServer(lambda number, body: Script(status=404)) as server:
        arguments = ["--server", f"plain={server.url}", "--concurrency", "1"]
        command = ["bench-serving", *arguments, "--categories", prompts, "--out", str(tmp_path)]
        assert main(command) == 2
        assert len(server.sent) == 1
    assert not (tmp_path / "serving.json").exists()
    assert f"refuses '{MODEL}' (HTTP 404" in capsys.readouterr().err


def test_several_models_need_a_name(tmp_path, prompts, capsys):
    with StreamingServer(models=("a", "b")) as server:
        command = ["bench-serving", "--server", f"plain={server.url}", "--out", str(tmp_path)]
        assert main([*command, "--categories", prompts]) == 2
    assert "serves a, b; name one of them" in capsys.readouterr().err


def test_a_suite_without_rows_is_refused(tmp_path, capsys):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with StreamingServer() as server:
        command = ["bench-serving", "--server", f"plain={server.url}", "--out", str(tmp_path)]
        assert main([*command, "--categories", str(empty)]) == 2
    assert "empty.jsonl" in capsys.readouterr().err


def test_a_server_that_is_gone_is_counted(tmp_path, prompts):
    def vanishing(number, body):
        if number == 2:
            server.stop()
            return Script(first_s=60.0)
        return Script()

    with StreamingServer(vanishing) as server:
        run = whole_run(bench(tmp_path, prompts, *one_at_a_time(server)))
    assert run["requests"] == {
        "sent": 6,
        "finished": 2,
        "failed": {"the stream broke off": 1, "no connection": 3},
    }


def test_long_prompts_are_a_category_in_tokens_of_the_named_model(tmp_path, prompts):
    word_tokenizer(2000).save_pretrained(tmp_path / "model")
    arguments = ["--tokenizer", str(tmp_path / "model"), "--per-category", "2", "--each-category"]
    with StreamingServer() as server:
        command = ["bench-serving", *one_at_a_time(server), *arguments]
        assert main([*command, "--categories", "long:128", prompts, "--out", str(tmp_path)]) == 0
        asked = [sent.body["messages"][0]["content"] for sent in server.sent]
    runs = json.loads((tmp_path / "serving.json").read_text())["runs"]
    assert {run["category"] for run in runs} == {"all", "long-128", "chat", "code"}
    assert sum("Which functions and classes" in text for text in asked) == 2


def test_long_prompts_without_a_tokenizer_are_refused(tmp_path, capsys):
    command = ["bench-serving", "--server", "plain=http://127.0.0.1:9", "--out", str(tmp_path)]
    assert main([*command, "--categories", "long:2k"]) == 2
    assert "name it with --tokenizer" in capsys.readouterr().err
