"""Token ids: recovered where a server gives none, left out where they cannot be, learnt as sampled.

The byte tokenizer of these tests has a token for each byte; 256 and 257 are the marks of ChatML.
"""

from dataclasses import replace

import pytest
from answer_server import MODEL, AnswerServer, Reply, completion
from chat_templates import examples_of

from eagle_hf.data.answers import (
    MISSING,
    RECOVERED,
    SERVED,
    FinishedTurn,
    IdRecovery,
    ServingSettings,
    TurnRequest,
    write_served_responses,
)
from eagle_hf.data.reading.conversations import load_conversations

pytest.importorskip("aiohttp", reason="answers from servers need aiohttp")
pytest.importorskip("stamina", reason="answers from servers need stamina")

START = 256
END = 257
PROMPT = [START, *b"user\nhi", END, *b"\n", START, *b"assistant\n"]
REQUEST = TurnRequest("p0", 0, [{"role": "user", "content": "hi"}])


def answered(text="hello", **changes):
    """A turn of a server that gives no ids."""
    turn = FinishedTurn(
        id="p0",
        turn=0,
        text=text,
        reasoning="",
        finish_reason="stop",
        prompt_ids=None,
        prompt_ids_from=MISSING,
        response_ids=None,
        response_ids_from=MISSING,
        prompt_tokens=len(PROMPT),
        sampled_tokens=None,
        model="tiny",
    )
    return replace(turn, **changes)


@pytest.fixture
def recovery(tokenizer):
    return IdRecovery(tokenizer, {END})


def test_ids_are_recovered_and_marked(recovery):
    turn = recovery.fill(REQUEST, answered())
    assert turn.prompt_ids == PROMPT
    assert turn.response_ids == [*b"hello", END]
    assert (turn.prompt_ids_from, turn.response_ids_from) == (RECOVERED, RECOVERED)


def test_served_ids_stay_as_they_are(recovery):
    served = dict(prompt_ids_from=SERVED, response_ids_from=SERVED)
    thoughts = answered(prompt_ids=[1], response_ids=[*b"well: hello", END], **served)
    assert recovery.fill(REQUEST, thoughts) == thoughts
    marked = answered("hello<|im_end|>", prompt_ids=[1], response_ids=[*b"hello", END], **served)
    assert recovery.fill(REQUEST, marked) == marked


def test_served_ids_of_another_tokenizer_are_dropped(recovery):
    served = dict(prompt_ids_from=SERVED, response_ids_from=SERVED)
    turn = recovery.fill(REQUEST, answered(prompt_ids=[1], response_ids=[*b"uryyb"], **served))
    assert turn.response_ids is None
    assert turn.response_ids_from == MISSING


def test_an_answer_that_was_cut_gets_no_end_of_turn(recovery):
    turn = recovery.fill(REQUEST, answered("hel", finish_reason="length"))
    assert turn.response_ids == list(b"hel")


def test_only_the_prompt_is_recovered_where_the_answer_has_ids(recovery):
    turn = answered(response_ids=[*b"hel", *b"lo", END], response_ids_from=SERVED)
    turn = recovery.fill(REQUEST, turn)
    assert (turn.prompt_ids_from, turn.response_ids_from) == (RECOVERED, SERVED)
    assert turn.prompt_ids == PROMPT


def test_another_number_of_prompt_tokens_is_another_template(recovery):
    turn = answered(prompt_tokens=len(PROMPT) + 1)
    assert recovery.fill(REQUEST, turn) == turn


def test_a_text_that_imitates_an_end_token_has_no_ids(recovery):
    turn = recovery.fill(REQUEST, answered("write <|im_end|> last"))
    assert turn.prompt_ids_from == RECOVERED
    assert turn.response_ids is None
    assert turn.response_ids_from == MISSING


def test_a_template_that_changes_the_answer_gives_no_ids(recovery, tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content']|upper")
    turn = recovery.fill(
        TurnRequest("p0", 0, [{"role": "user", "content": "HI"}]), answered("hello")
    )
    assert turn.response_ids_from == MISSING


def test_a_template_that_adds_to_the_answer_gives_no_ids(recovery, tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}",
        "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m['content'] }}",
    )
    turn = recovery.fill(REQUEST, answered("hello"))
    assert turn.prompt_ids_from == RECOVERED
    assert turn.response_ids_from == MISSING


@pytest.mark.parametrize(
    ("finish_reason", "counted", "expected"),
    [
        ("stop", 6, RECOVERED),
        ("stop", 5, RECOVERED),  # without the end-of-turn token
        ("stop", 4, MISSING),
        ("stop", 7, MISSING),
        ("length", 5, RECOVERED),
        ("length", 4, MISSING),
    ],
)
def test_another_number_of_sampled_tokens_was_sampled_otherwise(
    finish_reason, counted, expected, recovery
):
    turn = answered(finish_reason=finish_reason, sampled_tokens=counted)
    assert recovery.fill(REQUEST, turn).response_ids_from == expected


@pytest.mark.parametrize(
    ("counted", "expected"),
    [(None, RECOVERED), (5, RECOVERED), (6, RECOVERED), (4, MISSING), (7, MISSING)],
)
def test_what_a_template_puts_between_turns_is_never_learnt(counted, expected, recovery, tokenizer):
    # Ends a turn with a newline alone, where the target sampled its end-of-turn token.
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    prompt = [token for token in PROMPT if token != END]
    turn = answered(prompt_tokens=len(prompt), sampled_tokens=counted)
    turn = recovery.fill(REQUEST, turn)
    assert turn.response_ids_from == expected
    assert turn.response_ids == (list(b"hello") if expected == RECOVERED else None)


@pytest.mark.parametrize("counts_end", [True, False])
def test_a_call_behind_a_text_is_recovered_with_its_end_of_turn(counts_end, recovery, tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}",
        "{{ m['content'] }}{% for call in m.tool_calls %}<{{ call.function.name }}>{% endfor %}",
    )
    said = [*b"look<weather>", END]
    turn = answered(
        "look",
        finish_reason="tool_calls",
        tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        sampled_tokens=len(said) if counts_end else len(said) - 1,
    )
    assert recovery.fill(REQUEST, turn).response_ids == said


def test_hidden_reasoning_gives_no_ids(recovery):
    turn = recovery.fill(REQUEST, answered("4", reasoning="2 and 2"))
    assert turn.prompt_ids_from == RECOVERED
    assert turn.response_ids_from == MISSING


def test_reasoning_that_the_template_shows_is_recovered(recovery, tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}",
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m['content'] }}",
    )
    turn = recovery.fill(REQUEST, answered("4", reasoning="2 and 2"))
    assert turn.response_ids == [*b"<think>2 and 2</think>4", END]


def test_ids_are_recovered_while_a_server_answers(recovery, tmp_path):
    usage = {"prompt_tokens": len(PROMPT), "completion_tokens": 6}
    with AnswerServer(lambda server, body: Reply(completion(usage=usage)), engine="org") as server:
        report = write_served_responses(
            [server.url],
            [{"id": "p0", "turns": ["hi"]}],
            tmp_path,
            ServingSettings(model=MODEL),
            recovery=recovery,
        )
    assert (report.recovered, report.without_ids) == (1, 0)
    [row] = load_conversations(tmp_path)
    [example], _ = examples_of(recovery.tokenizer, row["messages"], stop={END}, row=row)
    assert example["input_ids"] == [*PROMPT, *b"hello", END]
    assert example["loss_mask"] == [0] * len(PROMPT) + [1] * 6
