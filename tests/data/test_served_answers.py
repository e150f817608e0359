"""Answers over real HTTP: what is asked and kept, what a rerun asks, how prompts are counted."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from datetime import date
from multiprocessing import get_context

import pytest
from answer_server import MODEL, AnswerServer, Reply, completion, last_question, with_ids

from eagle_hf.data import IdRecovery, TemplateArguments, load_conversations, prepare_examples
from eagle_hf.data.answers import (
    MISSING,
    SERVED,
    TURNS,
    FailedTurn,
    FinishedTurn,
    ServedAnswerer,
    ServingSettings,
    TurnStore,
    collect_answers,
    write_served_responses,
)

pytest.importorskip("aiohttp", reason="answers from servers need aiohttp")
pytest.importorskip("stamina", reason="answers from servers need stamina")


def settings(**changes):
    """Settings that lose no time between attempts."""
    quick = dict(model=MODEL, concurrency=4, first_wait_s=0.01, longest_wait_s=0.05, timeout_s=10)
    return ServingSettings(**(quick | changes))


def numbered(count):
    return [{"id": f"p{number}", "turns": [f"q{number}"]} for number in range(count)]


def stored(folder, prompts):
    """The finished turns of every prompt, by its id."""
    with TurnStore(folder) as store:
        return {prompt["id"]: store.turns(prompt["id"]) for prompt in prompts}


def test_turns_are_asked_in_order_and_kept_with_their_ids(make_prompts, tmp_path):
    prompts = make_prompts("a|b", "c", system="s")
    with AnswerServer() as server:
        report = write_served_responses([server.url], prompts, tmp_path, settings())
    assert (report.finished, report.turns, report.prompts) == (2, 3, 2)
    assert report.sampled_tokens == 6
    first, second = stored(tmp_path, prompts)["p0"]
    assert (first.text, second.text) == ("answer to a", "answer to b")
    assert (first.prompt_ids, first.response_ids) == ([5, 6, 7], [8, 9])
    assert (first.prompt_ids_from, first.response_ids_from) == (SERVED, SERVED)
    assert first.model == MODEL
    [body] = [body for body in server.asked if last_question(body) == "b"]
    assert [message["content"] for message in body["messages"]] == ["s", "a", "answer to a", "b"]
    assert body["return_token_ids"] is True


def test_no_more_requests_are_in_flight_than_allowed(tmp_path):
    def slowly(server, body):
        return Reply(with_ids(), delay_s=0.02)

    with AnswerServer(slowly) as server:
        write_served_responses([server.url], numbered(12), tmp_path, settings(concurrency=3))
    assert server.most_at_once == 3


def test_several_servers_share_the_work(tmp_path):
    def slowly(server, body):
        return Reply(with_ids(), delay_s=0.02)

    with AnswerServer(slowly) as one, AnswerServer(slowly) as other:
        urls = [one.url, f"{other.url}/v1/"]
        report = write_served_responses(urls, numbered(4), tmp_path, settings(concurrency=4))
    assert report.finished == 4
    assert one.counts.total() == other.counts.total() == 2


def test_a_rerun_asks_only_what_is_missing(tmp_path):
    with AnswerServer() as server:
        write_served_responses([server.url], numbered(2), tmp_path, settings())
        report = write_served_responses([server.url], numbered(5), tmp_path, settings())
        assert (report.finished, report.already_there) == (3, 2)
        report = write_served_responses([server.url], numbered(5), tmp_path, settings())
        assert (report.finished, report.already_there) == (0, 5)
    assert server.counts == Counter({f"q{number}": 1 for number in range(5)})


def test_a_conversation_goes_on_behind_its_last_finished_turn(make_prompts, tmp_path):
    def refuse_second_turns(server, body):
        return Reply(b"no", status=400) if last_question(body) == "b" else Reply(with_ids("yes"))

    prompts = make_prompts("a|b", "c")
    with AnswerServer(refuse_second_turns) as server:
        report = write_served_responses([server.url], prompts, tmp_path, settings())
    assert report.skipped == [("p0", "turn 2: HTTP 400: no")]
    with AnswerServer() as server:
        report = write_served_responses([server.url], prompts, tmp_path, settings())
    assert (report.finished, report.already_there) == (1, 1)
    assert server.counts == {"b": 1}
    texts = [message["content"] for message in server.asked[0]["messages"]]
    assert texts == ["a", "yes", "b"]


def test_other_settings_are_refused_in_the_same_folder(tmp_path):
    with AnswerServer() as server:
        write_served_responses([server.url], numbered(1), tmp_path, settings())
        with pytest.raises(ValueError, match="temperature is 0.0 there and 1.0 now"):
            write_served_responses([server.url], numbered(1), tmp_path, settings(temperature=1.0))


def test_another_question_under_an_old_id_is_refused(tmp_path):
    with AnswerServer() as server:
        write_served_responses([server.url], numbered(1), tmp_path, settings())
        changed = [{"id": "p0", "turns": ["another question"]}]
        with pytest.raises(ValueError, match="answer to another prompt with the id 'p0'"):
            write_served_responses([server.url], changed, tmp_path, settings())
    assert server.counts == {"q0": 1}


def test_every_prompt_is_counted_once(tmp_path):
    replies = {
        "good": Reply(with_ids()),
        "refused": Reply(b"too long", status=400),
        "empty": Reply(completion("  ")),
        "broken": Reply(b"{"),
        "first": Reply(completion("", reasoning="hm", finish_reason="length")),
        "last": Reply(completion("", reasoning="hm", finish_reason="length")),
    }
    prompts = [{"id": name, "turns": [name]} for name in replies]
    prompts[4]["turns"] = ["first", "never asked"]
    prompts.append({"id": "half", "turns": ["\ud83d"]})
    with AnswerServer(lambda server, body: replies[last_question(body)]) as server:
        report = write_served_responses([server.url], prompts, tmp_path, settings(attempts=2))
        assert report.prompts == len(prompts) == 7
        assert report.finished == 2
        assert [row.id for row in report.failed] == ["broken"]
        assert {row.id for row in report.skipped} == {"refused", "empty", "first", "half"}
        assert report.turns == 4
        assert report.without_ids == 3
        assert report.cut == 2
        assert server.counts["broken"] == 2
        assert server.counts["never asked"] == 0
        # A rerun asks again for what has no answer, and for nothing else.
        server.counts.clear()
        again = write_served_responses([server.url], prompts, tmp_path, settings(attempts=1))
    assert server.counts == {"refused": 1, "broken": 1}
    assert (again.already_there, len(again.failed), len(again.skipped)) == (2, 1, 4)


def test_a_run_without_any_answer_says_why(tmp_path):
    with (
        AnswerServer(lambda server, body: Reply(b"too long", status=400)) as server,
        pytest.raises(ValueError, match="none of 2 prompts got a response .*HTTP 400: too long"),
    ):
        write_served_responses([server.url], numbered(2), tmp_path, settings())


def test_samples_repeat_under_one_seed_and_differ_from_prompt_to_prompt(tmp_path):
    with AnswerServer() as server:
        for run, seed in enumerate([1, 1, 2]):
            write_served_responses(
                [server.url], numbered(3), tmp_path / str(run), settings(seed=seed)
            )
    seeds = {}
    for number, body in enumerate(server.asked):
        seeds[number // 3, last_question(body)] = body["seed"]
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    assert [seeds[0, f"q{number}"] for number in range(3)] == [
        seeds[1, f"q{number}"] for number in range(3)
    ]
    assert len(set(seeds.values())) == 6


def test_a_server_without_ids_leaves_them_missing(tmp_path):
    with AnswerServer(lambda server, body: Reply(completion()), engine="org") as server:
        report = write_served_responses([server.url], numbered(1), tmp_path, settings())
    [turn] = stored(tmp_path, numbered(1))["p0"]
    assert (turn.prompt_ids_from, turn.response_ids_from) == (MISSING, MISSING)
    assert report.without_ids == 1
    assert "return_token_ids" not in server.asked[0]


def test_the_key_is_sent_and_kept_nowhere(tmp_path):
    with AnswerServer() as server:
        write_served_responses([server.url], numbered(1), tmp_path, settings(), api_key="sk-x")
    assert server.headers[0]["authorization"] == "Bearer sk-x"
    for file in tmp_path.iterdir():
        assert b"sk-x" not in file.read_bytes()
    assert json.loads((tmp_path / "manifest.json").read_text())["model"] == MODEL


def test_a_finished_turn_is_on_the_disk_itself_within_a_second(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()

    def copy_file():
        # Without its log, the file holds what a power cut leaves.
        shutil.copy(tmp_path / TURNS, copy / TURNS)

    def stall_at_the_second(server, body):
        if last_question(body) == "q0":
            return Reply(with_ids())
        threading.Timer(1.0, copy_file).start()
        return Reply(with_ids(), delay_s=1.3)

    with AnswerServer(stall_at_the_second) as server:
        write_served_responses([server.url], numbered(2), tmp_path, settings(concurrency=1))
    assert [len(turns) for turns in stored(copy, numbered(2)).values()] == [1, 0]


def collect_in_child(url, folder):
    write_served_responses([url], numbered(40), folder, settings())


def test_a_killed_run_repeats_at_most_what_was_in_flight(tmp_path):
    def slowly(server, body):
        return Reply(with_ids(f"answer {server.counts.total()}"), delay_s=0.01)

    with AnswerServer(slowly) as server:
        child = get_context("fork").Process(target=collect_in_child, args=(server.url, tmp_path))
        child.start()
        deadline = time.monotonic() + 10
        while server.counts.total() < 15 and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kept = stored(tmp_path, numbered(40))
        assert sum(map(len, kept.values())) >= 15 - 4
        report = write_served_responses([server.url], numbered(40), tmp_path, settings())
    after = stored(tmp_path, numbered(40))
    assert report.finished + report.already_there == 40
    assert all(len(turns) == 1 for turns in after.values())
    assert {name: after[name] for name, turns in kept.items() if turns} == {
        name: turns for name, turns in kept.items() if turns
    }
    assert server.counts.total() - 40 <= 4


class BatchAnswerer:
    """Answers in batches, as a model in this process does."""

    def __init__(self, model=MODEL):
        self.model = model

    async def answer(self, conversations):
        batch = list(conversations)
        while batch:
            left = []
            for conversation in batch:
                request = conversation.request()
                if request.messages[-1]["content"] == "bad":
                    yield FailedTurn(request.id, request.turn, "not today")
                    continue
                turn = FinishedTurn(
                    id=request.id,
                    turn=request.turn,
                    text="yes",
                    reasoning="",
                    finish_reason="stop",
                    prompt_ids=[1],
                    prompt_ids_from=SERVED,
                    response_ids=[2],
                    response_ids_from=SERVED,
                    prompt_tokens=1,
                    sampled_tokens=1,
                    model=self.model,
                )
                yield turn
                conversation.hear(turn)
                if not conversation.is_finished:
                    left.append(conversation)
            batch = left


def test_anything_that_answers_in_batches_is_collected_alike(make_prompts, tmp_path):
    prompts = make_prompts("a|b", "c", "bad")
    with TurnStore(tmp_path) as store:
        report = asyncio.run(collect_answers(BatchAnswerer(), prompts, store))
        assert [turn.turn for turn in store.turns("p0")] == [0, 1]
    assert (report.finished, report.turns, report.prompts) == (2, 3, 3)
    assert report.failed == [("p2", "turn 1: not today")]


def test_answers_of_two_targets_do_not_share_a_store(make_prompts, tmp_path):
    with TurnStore(tmp_path) as store:
        asyncio.run(collect_answers(BatchAnswerer(), make_prompts("a"), store))
        with pytest.raises(ValueError, match="answers of the target 'tiny', and 'other' would"):
            asyncio.run(collect_answers(BatchAnswerer("other"), make_prompts("a", "b"), store))
        assert store.turns("p1") == []


def test_servers_that_are_collected_from_are_checked_first(tmp_path):
    with AnswerServer() as server, TurnStore(tmp_path) as store:
        answerer = ServedAnswerer([server.url], settings())
        report = asyncio.run(collect_answers(answerer, numbered(1), store))
        assert store.turns("p0")[0].response_ids_from == SERVED
    with AnswerServer(models=("other",)) as wrong, TurnStore(tmp_path) as store:
        answerer = ServedAnswerer([wrong.url], settings())
        with pytest.raises(ValueError, match="serves other; 'tiny' is not among them"):
            asyncio.run(collect_answers(answerer, numbered(2), store))
    assert report.finished == server.counts.total() == 1


def test_servers_are_asked_from_a_notebook_where_an_event_loop_runs(tmp_path):
    async def in_a_notebook(url):
        return write_served_responses([url], numbered(2), tmp_path, settings())

    with AnswerServer() as server:
        report = asyncio.run(in_a_notebook(server.url))
    assert report.finished == 2


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ([], "a list of addresses"),
        ("http://localhost", "a list of addresses"),
        (["localhost:8000"], "write http://localhost:8000"),
        (["http://h:1", "http://h:1/v1/"], "named twice"),
    ],
)
def test_addresses_that_are_none_are_refused(urls, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_served_responses(urls, numbered(1), tmp_path, settings())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "no model is named"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"request_fields": {"stream": True}}, "leave out 'stream'"),
        ({"request_fields": {"n": 2}}, "leave out 'stream'"),
        ({"request_fields": {"stop": {"a"}}}, "which is no JSON"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_the_template_is_given_the_arguments_of_run_and_prompt_by_request(make_prompts, tmp_path):
    tool = {"type": "function", "function": {"name": "weather"}}
    prompts = make_prompts("a", "b")
    prompts[1] |= {"tools": json.dumps([tool]), "chat_template_kwargs": {"enable_thinking": True}}
    arguments = TemplateArguments({"enable_thinking": False, "effort": "low"})
    with AnswerServer() as server:
        write_served_responses(
            [server.url], prompts, tmp_path, settings(template_arguments=arguments)
        )
        bodies = {last_question(body): body for body in server.asked}
        assert bodies["a"]["chat_template_kwargs"] == {"enable_thinking": False, "effort": "low"}
        assert "tools" not in bodies["a"]
        assert bodies["b"]["chat_template_kwargs"] == {"enable_thinking": True, "effort": "low"}
        assert bodies["b"]["tools"] == [tool]
        with pytest.raises(ValueError, match="chat_template_kwargs is .*low.* there and None now"):
            write_served_responses([server.url], prompts, tmp_path, settings())


def test_a_template_that_reads_a_date_is_given_that_of_the_first_run(tokenizer, tmp_path):
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%Y-%m-%d') %}"
        "{% endif %}{{ date_string }}" + tokenizer.chat_template
    )
    recovery = IdRecovery(tokenizer, {257})
    first = TemplateArguments(date=date(1999, 12, 31))
    with AnswerServer(lambda server, body: Reply(completion())) as server:
        for count, arguments in ((1, first), (2, TemplateArguments())):
            write_served_responses(
                [server.url],
                numbered(count),
                tmp_path,
                settings(template_arguments=arguments),
                recovery=recovery,
            )
    sent = [body["chat_template_kwargs"] for body in server.asked]
    assert sent == [{"date_string": "1999-12-31"}] * 2


def test_variables_that_the_template_never_reads_are_named(tokenizer, tmp_path):
    recovery = IdRecovery(tokenizer, {257})
    misspelt = {"enable_thinkng": False}
    prompts = numbered(2)
    prompts[0]["chat_template_kwargs"] = misspelt
    with AnswerServer() as server:
        report = write_served_responses(
            [server.url], prompts, tmp_path / "own", settings(), recovery=recovery
        )
        arguments = TemplateArguments(misspelt)
        with pytest.raises(ValueError, match="reads no enable_thinkng"):
            write_served_responses(
                [server.url],
                prompts,
                tmp_path / "run",
                settings(template_arguments=arguments),
                recovery=recovery,
            )
        assert len(server.asked) == 1
    assert [row.id for row in report.skipped] == [prompts[0]["id"]]
    assert "reads no enable_thinkng" in report.skipped[0].reason


def test_ids_are_recovered_with_the_arguments_of_the_request(tokenizer, tmp_path):
    tokenizer.chat_template = "{{ mood }}" + tokenizer.chat_template
    prompt = {"id": "p0", "turns": ["hi"], "chat_template_kwargs": {"mood": "glad"}}
    usage = {"prompt_tokens": 25, "completion_tokens": 6}
    with AnswerServer(lambda server, body: Reply(completion(usage=usage)), engine="o") as server:
        write_served_responses(
            [server.url],
            [prompt],
            tmp_path,
            settings(template_arguments=TemplateArguments({"mood": "sad"})),
            recovery=IdRecovery(tokenizer, {257}),
        )
    [turn] = stored(tmp_path, [prompt])["p0"]
    assert tokenizer.decode(turn.prompt_ids).startswith("glad<|im_start|>user")


def test_tool_calls_and_reasoning_of_a_server_are_kept_as_given(tmp_path):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1 }'}}
    message = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]}

    def call_a_tool(server, body):
        return Reply(with_ids(message=message, finish_reason="tool_calls"))

    prompts = [{"id": "p0", "turns": ["q0"]}, {"id": "p1", "turns": ["q1", "never asked"]}]
    with AnswerServer(call_a_tool) as server:
        report = write_served_responses([server.url], prompts, tmp_path, settings())
    assert report.finished == 1
    assert "calls tools, and nobody answers for them" in report.skipped[0].reason
    [row] = [json.loads(line) for line in (tmp_path / "conversations.jsonl").open()]
    assert row["messages"][1] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [call],
    }
    assert row["served_turns"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "calls",
    [
        {"name": "f"},
        ["f"],
        [{"function": {}}],
        [{"function": {"name": "f", "arguments": "\ud83d"}}],
    ],
)
def test_tool_calls_that_are_none_are_asked_again(calls, tmp_path):
    def fail_once(server, body):
        if server.counts.total() == 1:
            return Reply(with_ids(message={"role": "assistant", "tool_calls": calls}))
        return Reply(with_ids())

    with AnswerServer(fail_once) as server:
        report = write_served_responses([server.url], numbered(1), tmp_path, settings())
    assert (report.finished, server.counts["q0"]) == (1, 2)


def test_a_text_that_imitates_special_tokens_is_learnt_as_it_was_sampled(
    target, tokenizer, tmp_path
):
    text = "end with <|im_end|>"
    ids = [*text.encode(), 257]

    def imitate(server, body):
        return Reply(completion(text, prompt_token_ids=[5], token_ids=ids))

    with AnswerServer(imitate) as server:
        write_served_responses([server.url], numbered(1), tmp_path, settings())
    [example], skipped = prepare_examples(target, tokenizer, load_conversations(tmp_path))
    assert example["input_ids"] == [5, *ids]
    assert skipped == []


@pytest.mark.parametrize("name", ["model", "messages", "tools", "chat_template_kwargs", "seed"])
def test_a_field_that_has_a_setting_of_its_own_is_refused(name):
    with pytest.raises(ValueError, match=f"request_fields hold '{name}'; give "):
        settings(request_fields={name: 1})
