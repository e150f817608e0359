"""Servers that are not there, say something else, or count nothing: the error quotes them."""

import json

import pytest
from stub_engine import StubEngine, serving

from eagle_hf.hub.gate import EngineClient, EngineError
from eagle_hf.hub.gate.client import ACCEPTED
from eagle_hf.hub.gate.launching import free_port


class Counting(StubEngine):
    """Writes tokens without a model; `rounds_per_answer` and `accepted_per_answer` are counted."""

    rounds_per_answer = 3
    accepted_per_answer = 6

    def _complete(self, body):
        self.rounds += self.rounds_per_answer
        self.accepted += self.accepted_per_answer
        return super()._complete(body)


def test_an_answer_has_the_counters_of_itself_alone():
    with serving(Counting(None)) as url:
        client = EngineClient("vllm", url + "/v1/")
        client.answer([3, 4], 10)
        answer = client.answer([3, 4], 10)
    assert (answer.tokens, answer.rounds, answer.accepted) == ([5] * 10, 3, 6)


def test_a_server_that_answers_others_too_is_refused():
    stub = Counting(None)
    stub.rounds_per_answer = 11
    with serving(stub) as url, pytest.raises(EngineError, match="it answers others too"):
        EngineClient("vllm", url).answer([3], 10)


def test_no_server_is_said_with_its_address():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError, match=rf"no server answers at {url}/v1/models .*refused"):
        EngineClient("vllm", url)
    with pytest.raises(EngineError, match="nonsense is no address"):
        EngineClient("vllm", "nonsense")


def test_a_model_that_is_not_served_is_said_with_those_that_are():
    with serving(StubEngine(None)) as url:
        assert EngineClient("vllm", url, "tiny").model == "tiny"
        with pytest.raises(EngineError, match="serves tiny; there is no 'other'"):
            EngineClient("vllm", url, "other")


@pytest.mark.parametrize(
    ("path", "raw", "words"),
    [
        ("/v1/models", b"<html>", "sent no JSON: <html>"),
        ("/v1/models", b"[]", "sent no JSON object"),
        ("/v1/models", b'{"data": []}', "serves no model"),
        ("/v1/completions", b'{"choices": []}', "an answer without choices"),
        ("/v1/completions", b'{"choices": [{"text": "a"}]}', "names no token ids"),
        ("/v1/completions", b'{"choices": [{"token_ids": []}]}', "names no token ids"),
    ],
)
def test_what_is_no_answer_is_quoted(path, raw, words):
    stub = StubEngine(None)
    stub.raw[path] = raw
    with serving(stub) as url, pytest.raises(EngineError, match=words):
        EngineClient("vllm", url).answer([3], 4)


def test_a_server_without_drafts_is_no_bad_head(monkeypatch):
    monkeypatch.setattr("eagle_hf.hub.gate.client.SETTLING_S", 0.1)
    with serving(StubEngine(None)) as url, pytest.raises(EngineError, match="drafted none"):
        EngineClient("vllm", url).answer([3], 8)
    stub = StubEngine(None)
    stub.missing.add(ACCEPTED)
    with serving(stub) as url, pytest.raises(EngineError, match=f"metrics has no {ACCEPTED}"):
        EngineClient("vllm", url).answer([3], 8)


LLAMACPP = {
    "choices": [{"logprobs": {"content": [{"id": 7}, {"id": 8}, {"id": 9}]}}],
    "timings": {"predicted_n": 3, "draft_n": 3, "draft_n_accepted": 1},
}
SGLANG = {
    "output_ids": [7, 8, 9],
    "meta_info": {"spec_verify_ct": 1, "spec_num_correct_drafts": 1},
}


@pytest.mark.parametrize(
    ("engine", "path", "reply", "rounds"),
    [
        ("llamacpp", "/v1/completions", LLAMACPP, None),
        ("sglang", "/generate", SGLANG, 1),
    ],
)
def test_other_engines_count_in_their_answers(engine, path, reply, rounds):
    stub = StubEngine(None)
    stub.raw[path] = json.dumps(reply).encode()
    with serving(stub) as url:
        answer = EngineClient(engine, url).answer([3], 3)
    assert (answer.tokens, answer.accepted, answer.rounds) == ([7, 8, 9], 1, rounds)
    without = {**reply, "timings": {}, "meta_info": {}}
    stub.raw[path] = json.dumps(without).encode()
    with serving(stub) as url, pytest.raises(EngineError, match="was it started with"):
        EngineClient(engine, url).answer([3], 3)
