"""A server as a method: timed, compared by text, its acceptance read, its errors counted."""

import json

import pytest
import torch
from answer_server import AnswerServer, Reply, completion, last_question
from tiny import tiny_target, word_tokenizer

from eagle_hf import cli
from eagle_hf.data.answers.draft_counts import read_counters
from eagle_hf.data.prompts.suites import first_turn_ids
from eagle_hf.evaluation.side_by_side import (
    Contest,
    KeptAnswers,
    OpenMethod,
    ServedMethod,
    Setting,
    summaries,
)
from eagle_hf.evaluation.side_by_side.acceptance import acceptance_of
from eagle_hf.evaluation.side_by_side.server_counters import stats_of_response

PROMPTS = [
    {"id": "p0", "category": "code", "turns": ["w5 w7"]},
    {"id": "p1", "category": "chat", "turns": ["w6 w7"]},
]
TOKENS = 8
VLLM = {
    "mean_acceptance_length": 2.0,
    "draft_acceptance_rate": 1 / 3,
    "acceptance_histogram": [1, 2, 1, 0],
    "acceptance_histogram_by_draft_length": {"3": [1, 2, 1, 0]},
    "num_spec_steps": 4,
    "num_accepted_draft_tokens": 4,
    "num_draft_tokens": 12,
    "num_spec_tokens": 3,
}


@pytest.fixture(scope="module")
def target():
    return tiny_target(layers=2, dtype=torch.float32)


@pytest.fixture(scope="module")
def texts(target):
    """What the target itself says to each prompt."""
    tokenizer = word_tokenizer()
    found = {}
    for prompt in PROMPTS:
        inputs = first_turn_ids(tokenizer, prompt)
        output = target.generate(
            inputs["input_ids"], max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        new = output[0, inputs["input_ids"].shape[1] :]
        found[prompt["turns"][0]] = tokenizer.decode(new, skip_special_tokens=True)
    return found


def measured(target, server, tmp_path, temperature=0.0):
    """The rows of a contest between plain decoding and a server, all categories."""
    served = ServedMethod.open("server:it", server.url)
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    methods = [OpenMethod("plain", {}), served]
    Contest(target, word_tokenizer(), methods, TOKENS).run(PROMPTS, [Setting(temperature)], kept)
    return [row for row in summaries(kept) if row["method"] == "server:it"]


def test_a_server_that_says_the_same_is_identical(target, texts, tmp_path):
    def answer(server, body):
        question = last_question(body)
        usage = {"prompt_tokens": 3, "completion_tokens": TOKENS}
        said = completion(texts[question], usage=usage, metrics={"speculative_decoding": VLLM})
        return Reply(said, delay_s=0.05)

    with AnswerServer(answer) as server:
        rows = measured(target, server, tmp_path)
        assert {body["temperature"] for body in server.asked} == {0.0}
        assert server.asked[-1]["max_tokens"] == TOKENS
    row = next(row for row in rows if row["category"] == "all")
    assert row["identical"] == 1.0
    assert 0.7 * TOKENS / 0.05 < row["tokens_s"] < TOKENS / 0.05
    found = row["acceptance"]
    assert found["alpha"] == [3 / 4, 1 / 3, 0.0]
    assert found["tau_requests"]["median"] == found["tau_tokens"] == 2.0
    twice = {"acceptance_histogram": [2, 4, 2, 0], "num_spec_steps": 8, "num_draft_tokens": 24}
    twice |= {"num_accepted_draft_tokens": 8}
    twice |= {"acceptance_histogram_by_draft_length": {"3": [2, 4, 2, 0]}}
    assert found["vllm"] == VLLM | twice


def test_another_text_and_failed_requests_are_counted(target, texts, tmp_path):
    def answer(server, body):
        if last_question(body) == "w5 w7" and len(server.asked) > 1:  # after the warm-up
            return Reply(hangs_up=True)
        return Reply(completion("w9 w9"))

    with AnswerServer(answer) as server:
        rows = measured(target, server, tmp_path)
    row = next(row for row in rows if row["category"] == "all")
    assert (row["prompts"], row["identical"]) == (2, 0.0)
    assert sum(row["errors"].values()) == 1
    assert "broke off" in next(iter(row["errors"]))
    failed = next(row for row in rows if row["category"] == "code")
    assert (failed["tokens_s"], failed["speedup"], failed["identical"]) == (None, None, None)


def test_tokens_are_counted_here_where_the_server_does_not(target, texts, tmp_path):
    """An answer without any is an error."""

    def answer(server, body):
        if last_question(body) == "w6 w7":
            return Reply(completion("", usage={"completion_tokens": 0}))
        return Reply(completion("w9 w9 w9", usage=None))

    with AnswerServer(answer) as server:
        rows = {row["category"]: row for row in measured(target, server, tmp_path)}
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    counts = [answer.tokens for answer in kept.answers if answer.method == "server:it"]
    assert sorted(counts) == [0, 3]
    assert rows["chat"]["errors"] == {"an answer without tokens": 1}
    assert rows["code"]["errors"] == {}


def test_the_servers_own_counters_give_acceptance(target, texts, tmp_path):
    def page(server):
        rounds = 4 * len(server.asked)
        counts = {
            'drafts_total{engine="0"}': rounds,
            'drafts_created{engine="0"}': 1.7e9,
            'draft_tokens_total{engine="0"}': 2 * rounds,
            'accepted_tokens_total{engine="0"}': rounds,
            'accepted_tokens_per_pos_total{position="0"}': rounds * 3 // 4,
            'accepted_tokens_per_pos_total{position="1"}': rounds // 4,
        }
        lines = [f"vllm:spec_decode_num_{name} {float(n)}" for name, n in counts.items()]
        return "\n".join(lines)

    def answer(server, body):
        return Reply(completion(texts[last_question(body)]))

    with AnswerServer(answer, metrics=page) as server:
        rows = measured(target, server, tmp_path)
    found = next(row for row in rows if row["category"] == "all")["acceptance"]
    assert found["tau_tokens"] == 2.0
    assert found["alpha"] == [3 / 4, 1 / 3]
    assert found["vllm"]["acceptance_histogram"] == [2, 4, 2]
    assert found["vllm"]["acceptance_histogram_by_draft_length"] is None
    assert read_counters("# nothing of speculation\n") is None


def test_llama_cpp_tells_totals(target):
    timings = {"predicted_n": 21, "draft_n": 30, "draft_n_accepted": 10}
    stats = stats_of_response({"timings": timings})
    found = acceptance_of([stats])
    assert found["tau_tokens"] == 2.0
    assert found["vllm"]["draft_acceptance_rate"] == 1 / 3
    assert found["vllm"]["acceptance_histogram"] is None
    without = stats_of_response({"timings": {"predicted_n": 21}})
    assert (without.rounds, without.drafted) == (20, 0), "nothing was drafted for this answer"
    both = acceptance_of([stats, without])
    assert both["tau_tokens"] == 40 / 30
    assert stats_of_response({"timings": {"prompt_n": 3}}) is None


def test_a_server_is_not_asked_to_sample(target, texts, tmp_path):
    with AnswerServer() as server:
        rows = measured(target, server, tmp_path, temperature=1.0)
        assert server.asked == []
    assert "asked greedily" in rows[0]["failed"]


@pytest.mark.parametrize(
    ("models", "address", "message"),
    [
        (("a", "b"), "{}", "name one of them"),
        (("a",), "{}#c", "'c' is not among them"),
        ((), "{}", "serves nothing"),
    ],
)
def test_a_server_must_have_the_model(models, address, message):
    with (
        AnswerServer(models=models) as server,
        pytest.raises(ValueError, match=message),
    ):
        ServedMethod.open("server:it", address.format(server.url))


def test_no_server_is_a_failed_row(tmp_path, monkeypatch, capsys):
    target = tiny_target(layers=2, dtype=torch.float32)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    (tmp_path / "asked.jsonl").write_text(json.dumps({"turns": ["w5"]}) + "\n")
    monkeypatch.chdir(tmp_path)
    flags = (
        "--target target --categories asked.jsonl --dtype float32 --max-new-tokens 4 "
        "--methods server:gone=http://127.0.0.1:9 --out out"
    )
    assert cli.main(["evaluate", *flags.split()]) == 0
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    gone = next(row for row in rows if row["method"] == "server:gone")
    assert "start the server" in gone["failed"]
    assert any(row["method"] == "plain" for row in rows)
