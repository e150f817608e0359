"""What servers say: which fields are read, what is refused and whether it is asked again."""

import json

import pytest
from answer_server import MODEL, completion

from eagle_hf.data.answers import MISSING, SERVED, TurnRequest
from eagle_hf.data.answers.asking import request_body
from eagle_hf.data.answers.errors import RefusedPromptError, TryAgainError, WrongServerError
from eagle_hf.data.answers.wire import (
    check_status,
    parse_answer,
    parse_json,
    parse_models,
)

REQUEST = TurnRequest("p0", 0, [{"role": "user", "content": "a"}])


def parsed(payload):
    return parse_answer(payload, REQUEST, MODEL)


def body(engine, **request_fields):
    return request_body(
        REQUEST,
        model=MODEL,
        max_new_tokens=9,
        temperature=0.5,
        seed=1,
        engine=engine,
        request_fields=request_fields,
    )


def test_ids_of_vllm_are_served():
    turn = parsed(completion(prompt_token_ids=[5, 6, 7], token_ids=[8, 9]))
    assert turn.prompt_ids == [5, 6, 7]
    assert turn.response_ids == [8, 9]
    assert (turn.prompt_ids_from, turn.response_ids_from) == (SERVED, SERVED)
    assert (turn.prompt_tokens, turn.sampled_tokens) == (3, 2)


def test_ids_of_sglang_are_served():
    payload = completion(token_ids=[8, 9])
    payload["choices"][0]["prompt_token_ids"] = [5, 6, 7]
    turn = parsed(payload)
    assert turn.prompt_ids == [5, 6, 7]
    assert turn.response_ids == [8, 9]


def test_ids_of_llamacpp_stand_beside_log_probabilities():
    content = [{"id": 8, "token": "he", "logprob": -1.0}, {"id": 9, "token": "llo", "logprob": 0}]
    turn = parsed(completion(logprobs={"content": content}))
    assert turn.response_ids == [8, 9]
    assert turn.response_ids_from == SERVED
    assert turn.prompt_ids is None
    assert turn.prompt_ids_from == MISSING


def test_log_probabilities_without_ids_give_none():
    turn = parsed(completion(logprobs={"content": [{"token": "he", "logprob": -1.0}]}))
    assert turn.response_ids_from == MISSING


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_kept_under_each_of_its_names(name):
    turn = parsed(completion("4", **{name: "2 and 2"}))
    assert turn.reasoning == "2 and 2"
    assert turn.text == "4"


def test_an_answer_cut_in_its_reasoning_has_no_text():
    turn = parsed(completion(content=None, reasoning="2 and", finish_reason="length"))
    assert turn.text == ""
    assert turn.finish_reason == "length"
    assert not turn.is_empty


@pytest.mark.parametrize(
    ("engine", "fields"),
    [
        ("vllm", {"return_token_ids": True}),
        ("sglang", {"return_token_ids": True}),
        ("llamacpp", {"logprobs": True, "top_logprobs": 1}),
        ("", {}),
        ("some-org", {}),
    ],
)
def test_an_engine_is_asked_only_for_what_it_knows(engine, fields):
    usual = {"model", "messages", "max_tokens", "temperature", "seed", "stream"}
    asked = body(engine)
    assert {name: asked[name] for name in asked if name not in usual} == fields
    assert asked["stream"] is False


def test_request_fields_win():
    assert body("vllm", return_token_ids=False, top_p=0.9)["return_token_ids"] is False
    assert body("vllm", top_p=0.9)["top_p"] == 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"finish_reason": None},
        {"finish_reason": "abort"},
        {"choices": []},
        {"choices": "none"},
        {"message": None},
        {"content": [{"type": "text", "text": "hello"}]},
        {"content": "\ud83d"},
        {"token_ids": "8 9"},
        {"token_ids": [8, 9.5]},
        {"token_ids": [8, -1]},
        {"token_ids": [8, 2**70]},
    ],
)
def test_an_answer_that_is_not_whole_is_asked_again(change):
    with pytest.raises(TryAgainError, match="the answer is broken"):
        parsed(completion(**change))


@pytest.mark.parametrize("model", ["another", None, "tiny-base"])
def test_the_answer_of_another_model_is_refused(model):
    with pytest.raises(WrongServerError, match="answered and 'tiny' was asked for"):
        parsed(completion(model=model))


def test_a_revision_behind_the_name_is_the_same_model():
    assert parsed(completion(model="tiny@main")).model == MODEL


@pytest.mark.parametrize("raw", [b"", b"{", b"<html>busy</html>", b"[1]", b"\xff", b"[" * 99_999])
def test_what_is_no_json_object_is_asked_again(raw):
    with pytest.raises(TryAgainError, match="the answer is broken"):
        parse_json(raw)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_a_busy_server_is_asked_again(status):
    with pytest.raises(TryAgainError, match=f"HTTP {status}: too much") as caught:
        check_status(status, b"too  much", None)
    assert caught.value.retry_after is None


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_prompt_is_not_asked_again(status):
    with pytest.raises(RefusedPromptError):
        check_status(status, b"", None)


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_a_server_that_refuses_every_prompt_is_wrong(status):
    with pytest.raises(WrongServerError):
        check_status(status, b"", None)


@pytest.mark.parametrize(
    ("header", "seconds"), [("2.5", 2.5), ("-1", 0.0), ("Fri, 27 Nov 2026", None), ("inf", None)]
)
def test_the_pause_a_server_asks_for_is_read(header, seconds):
    with pytest.raises(TryAgainError) as caught:
        check_status(429, b"", header)
    assert caught.value.retry_after == seconds


def test_models_are_listed_with_their_engine():
    models = parse_models({"data": [{"id": "a", "owned_by": "vllm"}, {"id": "b"}, "c"]})
    assert [tuple(model) for model in models] == [("a", "vllm"), ("b", "")]
    with pytest.raises(TryAgainError, match="no list of models"):
        parse_models({"error": json.dumps("busy")})
