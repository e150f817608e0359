"""A folder of answers: one file of rows by token, whoever answered, however often it was killed."""

import asyncio
import json
import os
import resource
import signal
import sqlite3
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest
from answer_server import MODEL, AnswerServer, Reply, completion, with_ids

from eagle_hf.data import (
    ServingSettings,
    TurnStore,
    load_conversations,
    prepare_examples,
    read_conversations,
    write_responses,
    write_served_responses,
)
from eagle_hf.data.answers import (
    MISSING,
    RECOVERED,
    SERVED,
    TURNS,
    FailedTurn,
    FinishedTurn,
    collect_answers,
)
from eagle_hf.data.answers.conversation_file import ConversationFile, conversation_row
from eagle_hf.data.manifest import only_one_run
from eagle_hf.data.reading.lines import LONGEST_LINE

pytest.importorskip("aiohttp", reason="answers from servers need aiohttp")
pytest.importorskip("stamina", reason="answers from servers need stamina")

END = 257
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}


def settings(**changes):
    """Settings that lose no time between attempts."""
    quick = dict(model=MODEL, concurrency=4, first_wait_s=0.01, longest_wait_s=0.05, timeout_s=10)
    return ServingSettings(**(quick | changes))


def prompt(name="p0", *turns, **more):
    return {"id": name, "turns": list(turns or ("hi",)), "category": "c", "source": "s", **more}


def turn(text="hello", **changes):
    """A finished turn, its ids the bytes of the text."""
    usual = FinishedTurn(
        id="p0",
        turn=0,
        text=text,
        reasoning="",
        finish_reason="stop",
        prompt_ids=[*b"hi"],
        prompt_ids_from=SERVED,
        response_ids=[*text.encode(), END],
        response_ids_from=SERVED,
        prompt_tokens=2,
        sampled_tokens=6,
        model=MODEL,
    )
    return replace(usual, **changes)


def read_rows(folder):
    return [json.loads(line) for line in (folder / "conversations.jsonl").open()]


class Replaying:
    """Answers with turns that are given."""

    model = MODEL

    def __init__(self, *turns):
        self.turns = {(one.id, one.turn): one for one in turns}
        self.asked = []

    async def answer(self, conversations):
        for conversation in conversations:
            while not conversation.is_finished:
                key = (conversation.prompt["id"], conversation.turn)
                self.asked.append(key)
                if key not in self.turns:
                    yield FailedTurn(*key, "not today")
                    break
                conversation.hear(self.turns[key])
                yield self.turns[key]


def collect(folder, prompts, *turns):
    """The answerer, after one run into a folder."""
    answerer = Replaying(*turns)
    with TurnStore(folder) as store:
        asyncio.run(collect_answers(answerer, prompts, store))
    return answerer


def learnt(target, tokenizer, folder):
    """The ids that are learnt, by example; and what is left out."""
    examples, skipped = prepare_examples(target, tokenizer, load_conversations(folder))
    ids = {}
    for example in examples:
        masked = zip(example["input_ids"], example["loss_mask"], strict=True)
        ids[example["id"]] = [token for token, is_learnt in masked if is_learnt]
    return ids, skipped


def test_servers_and_the_target_here_write_the_same_kind_of_row(
    scripted, tokenizer, make_prompts, tmp_path
):
    prompts = make_prompts("a|b", system="s")
    write_responses(scripted, tokenizer, prompts, tmp_path / "here", max_new_tokens=9)

    def serve(server, body):
        text = "".join(
            f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in body["messages"]
        )
        ids = tokenizer.encode(text + "<|im_start|>assistant\n", add_special_tokens=False)
        return Reply(completion("hello", prompt_token_ids=ids, token_ids=[*b"hello", END]))

    with AnswerServer(serve) as server:
        write_served_responses([server.url], prompts, tmp_path / "served", settings())
    assert read_rows(tmp_path / "here") == read_rows(tmp_path / "served")
    by_here = learnt(scripted, tokenizer, tmp_path / "here")
    assert by_here == ({"p0": [*b"hello", END, *b"hello", END]}, [])
    assert learnt(scripted, tokenizer, tmp_path / "served") == by_here


def test_a_conversation_is_in_the_file_as_soon_as_it_is_finished(tmp_path):
    seen = []

    def look(server, body):
        file = tmp_path / "conversations.jsonl"
        seen.append(len(file.read_text().splitlines()) if file.exists() else 0)
        return Reply(with_ids())

    with AnswerServer(look) as server:
        prompts = [prompt("p0"), prompt("p1"), prompt("p2")]
        write_served_responses([server.url], prompts, tmp_path, settings(concurrency=1))
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("damage", ["gone", "last line torn", "last line missing"])
def test_a_file_that_lacks_finished_conversations_gets_them_from_the_store(damage, tmp_path):
    prompts = [prompt("p0"), prompt("p1")]
    collect(tmp_path, prompts, turn(), turn(id="p1"))
    file = tmp_path / "conversations.jsonl"
    whole = file.read_text()
    first = whole.splitlines(keepends=True)[0]
    if damage == "gone":
        file.unlink()
    else:
        file.write_text(first + ('{"format": 2, "id": "p1", "mes' if "torn" in damage else ""))
    answerer = collect(tmp_path, prompts)
    assert answerer.asked == []
    assert file.read_text() == whole


def test_a_folder_of_the_first_format_goes_on(scripted, tokenizer, make_prompts, tmp_path):
    prompts = make_prompts("a", "b")
    write_responses(scripted, tokenizer, prompts, tmp_path / "new", max_new_tokens=9)
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    for name in ("format", "chat_template_kwargs", "date"):
        del manifest[name]
    old = tmp_path / "old"
    old.mkdir()
    (old / "manifest.json").write_text(json.dumps(manifest))
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "old answer"}]
    row = {"id": "p0", "messages": messages, "source": "s", "category": "c"}
    (old / "conversations.jsonl").write_text(json.dumps(row) + "\n")
    report = write_responses(scripted, tokenizer, prompts, old, max_new_tokens=9)
    assert (report.already_there, report.finished) == (1, 1)
    assert [row["id"] for row in read_rows(old)] == ["p0", "p1"]
    ids, skipped = learnt(scripted, tokenizer, old)
    assert ids == {"p0": [*b"old answer", END], "p1": [*b"hello", END]}
    assert skipped == []


@pytest.mark.parametrize("has_format", [True, False])
@pytest.mark.parametrize(
    "other", [prompt("p0", "changed"), prompt("p0", "hi", "more"), prompt(system="s")]
)
def test_a_file_without_a_store_is_no_answer_to_another_question(has_format, other, tmp_path):
    collect(tmp_path, [prompt()], turn())
    (tmp_path / TURNS).unlink()
    if not has_format:
        [row] = read_rows(tmp_path)
        old = {name: row[name] for name in ("id", "messages", "source", "category")}
        (tmp_path / "conversations.jsonl").write_text(json.dumps(old) + "\n")
    assert collect(tmp_path, [prompt()]).asked == []
    with pytest.raises(ValueError, match="an answer to another prompt with the id 'p0'"):
        collect(tmp_path, [other])


def test_tools_and_template_variables_are_part_of_the_question(tmp_path):
    asked = prompt(tools=[{"type": "function"}], chat_template_kwargs={"effort": "low"})
    collect(tmp_path, [asked], turn())
    (tmp_path / TURNS).unlink()
    assert collect(tmp_path, [asked]).asked == []
    with pytest.raises(ValueError, match="an answer to another prompt"):
        collect(tmp_path, [asked | {"chat_template_kwargs": {"effort": "high"}}])


def test_a_store_of_the_first_format_goes_on(tmp_path):
    collect(tmp_path, [prompt()], turn())
    with sqlite3.connect(tmp_path / TURNS) as database:
        database.execute("ALTER TABLE turns DROP COLUMN tool_calls")
        database.execute("PRAGMA user_version = 1")
    database.close()
    answerer = collect(tmp_path, [prompt(), prompt("p1")], turn(id="p1", tool_calls=[CALL]))
    assert answerer.asked == [("p1", 0)]
    with TurnStore(tmp_path) as store:
        assert store.turns("p0") == [turn()]
        assert store.turns("p1")[0].tool_calls == [CALL]


def test_reasoning_and_tool_calls_stand_beside_the_text(target, tokenizer, tmp_path):
    said = [*b"<think>hm</think>4", END]
    called = [*b'weather {"city": "Oslo"}', END]
    collect(
        tmp_path,
        [prompt("p0", tools=[{"type": "function"}]), prompt("p1")],
        turn("4", reasoning="hm", response_ids=said),
        turn("", id="p1", tool_calls=[CALL], response_ids=called, finish_reason="tool_calls"),
    )
    first, second = read_rows(tmp_path)
    assert first["messages"][1] == {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "hm",
    }
    assert first["tools"] == '[{"type": "function"}]'
    assert second["messages"][1]["tool_calls"] == [CALL]
    assert second["served_turns"][0]["finish_reason"] == "tool_calls"
    ids, skipped = learnt(target, tokenizer, tmp_path)
    assert ids == {"p0": said, "p1": called}
    assert skipped == []


@pytest.mark.parametrize("arguments", ["", "not JSON", "[1]", '{"a": 1', {"a": None, "b": [{}]}])
def test_a_call_is_learnt_whatever_its_arguments_are(arguments, target, tokenizer, tmp_path):
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    ids = [*b"call weather", END]
    collect(tmp_path, [prompt()], turn("", tool_calls=[call], response_ids=ids))
    assert learnt(target, tokenizer, tmp_path) == ({"p0": ids}, [])


@pytest.mark.parametrize("reasoning", ["", " hm \n"])
@pytest.mark.parametrize(
    "text", ["  a  ", "\n\n4\n", "a\u2028b", "\x00a", "a\r\nb", "\ufeffa", "null", "<|im_end|>"]
)
def test_a_text_is_kept_to_the_letter(text, reasoning, target, tokenizer, tmp_path):
    ids = [*(reasoning + text).encode(), END]
    collect(tmp_path, [prompt()], turn(text, reasoning=reasoning, response_ids=ids))
    [row] = load_conversations(tmp_path)
    assert row["messages"][1]["content"] == text
    assert learnt(target, tokenizer, tmp_path) == ({"p0": ids}, [])


def test_arguments_that_were_parsed_are_kept_as_text(tmp_path):
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Tromsø"}}}
    collect(tmp_path, [prompt()], turn("", tool_calls=[call], response_ids=[*b"weather", END]))
    [row] = read_rows(tmp_path)
    [kept] = row["messages"][1]["tool_calls"]
    assert kept["function"]["arguments"] == '{"city": "Tromsø"}'


def changed(row, **fields):
    """The row with its answer edited."""
    question, answer = row["messages"]
    return {**row, "messages": [question, answer | fields]}


@pytest.mark.parametrize(
    "edit",
    [
        {"content": "hello [EMAIL]"},
        {"content": "hello"},
        {"content": ""},
        {"reasoning_content": "[NAME] asks"},
        {"reasoning_content": None},
        {"tool_calls": [CALL | {"function": {"name": "weather", "arguments": "{}"}}]},
        {"tool_calls": None},
    ],
)
def test_an_answer_that_was_edited_is_refused(edit, target, tokenizer):
    ids = [*b"<think>Ann asks</think>hello ann@x.org", END]
    said = turn("hello ann@x.org", reasoning="Ann asks", tool_calls=[CALL], response_ids=ids)
    row = conversation_row(prompt(), [said])
    examples, skipped = prepare_examples(target, tokenizer, [row])
    assert len(examples) == 1
    assert skipped == []
    with pytest.raises(ValueError, match="it was edited"):
        prepare_examples(target, tokenizer, [changed(row, **edit)])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello\n\nyou", [*b"  hello you", END]),  # spaces that the server's detokenizer changed
        ("caf\ufffd", [*b"caf\xc3"]),  # half a character, at the end of a cut answer
        ("write <|im_end|>", [*b"write <|im_end|>", END]),  # a text that imitates a token
        ("a<|im_start|>b", [97, 256, 98, END]),  # a special token that the server shows
        ("ab", [97, 256, 98, END]),  # ... and one that it hides
        ("first\nsecond", [*b"first<tool>call</tool>\nsecond", END]),
    ],
)
def test_a_true_answer_is_never_refused(text, ids, target, tokenizer):
    row = conversation_row(prompt(), [turn(text, response_ids=ids)])
    [example], _ = prepare_examples(target, tokenizer, [row])
    assert example["input_ids"] == [*b"hi", *ids]


def test_the_ids_of_another_tokenizer_are_refused(target, tokenizer):
    row = conversation_row(prompt(), [turn("hello", response_ids=[*b"uryyb", END])])
    with pytest.raises(ValueError, match="not what its ids decode to"):
        prepare_examples(target, tokenizer, [row])


def test_an_answer_without_ids_is_left_out_and_named(target, tokenizer, tmp_path):
    none = dict(response_ids=None, response_ids_from=MISSING)
    collect(
        tmp_path,
        [prompt("p0", "a", "b"), prompt("p1")],
        turn("one"),
        turn("two", turn=1, **none),
        turn(id="p1", **none),
    )
    ids, skipped = learnt(target, tokenizer, tmp_path)
    assert ids == {"p0": [*b"one", END]}
    assert [row.id for row in skipped] == ["p0, answer 2", "p1"]
    assert all("has no token ids" in row.reason for row in skipped)
    rows = load_conversations(tmp_path)
    with pytest.raises(ValueError, match="answer 2 has no token ids"):
        prepare_examples(target, tokenizer, rows.select([0]), train_on="last_turn")


def test_rows_say_where_their_ids_come_from(tmp_path):
    collect(tmp_path, [prompt()], turn(prompt_ids_from=RECOVERED))
    [kept] = read_rows(tmp_path)[0]["served_turns"]
    assert (kept["prompt_ids_from"], kept["response_ids_from"]) == (RECOVERED, SERVED)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_comes_late_is_read(streaming, tmp_path):
    # `datasets` reads some megabytes, and takes their columns for those of all rows.
    plain = turn(prompt_ids=[7] * 4000)
    with (tmp_path / "conversations.jsonl").open("w") as file:
        for number in range(1500):
            last = turn("4", reasoning="hm", tool_calls=[CALL])
            row = conversation_row(prompt(f"p{number}"), [plain if number < 1499 else last])
            file.write(json.dumps(row) + "\n")
    assert (tmp_path / "conversations.jsonl").stat().st_size > 11e6
    *_, row = load_conversations(tmp_path, streaming=streaming)
    assert row["messages"][1]["reasoning_content"] == "hm"
    assert row["messages"][1]["tool_calls"] == [CALL]


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_conversation_longer_than_any_prompt_is_read_too(as_folder, tmp_path):
    long = turn(prompt_ids=[100000] * 2_200_000)
    collect(tmp_path, [prompt("p0"), prompt("p1")], long, turn(id="p1"))
    file = tmp_path / "conversations.jsonl"
    assert file.stat().st_size > LONGEST_LINE
    rows, skipped = read_conversations(tmp_path if as_folder else file)
    assert [row["id"] for row in rows] == ["p0", "p1"]
    assert skipped == []


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_with_and_without_ids_are_read_one_after_the_other(streaming, tmp_path):
    collect(tmp_path / "new", [prompt()], turn("4", reasoning="hm"))
    (tmp_path / "old").mkdir()
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "old" / "conversations.jsonl").write_text(
        json.dumps({"id": "old", "messages": messages}) + "\n"
    )
    rows = load_conversations([tmp_path / "new", tmp_path / "old"], streaming=streaming)
    assert [row["messages"][1]["content"] for row in rows] == ["4", "b"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_store_without_a_file_is_read_too(streaming, tmp_path):
    collect(tmp_path, [prompt()], turn("4", reasoning="hm"))
    (tmp_path / "conversations.jsonl").unlink()
    [row] = load_conversations(tmp_path, streaming=streaming)
    assert row["messages"][1]["reasoning_content"] == "hm"
    assert row["served_turns"][0]["response_ids"] == [*b"4", END]


def test_the_target_here_answers_from_a_notebook(scripted, tokenizer, make_prompts, tmp_path):
    async def in_a_notebook():
        return write_responses(scripted, tokenizer, make_prompts("a"), tmp_path, max_new_tokens=9)

    assert asyncio.run(in_a_notebook()).finished == 1


class Slowly(Replaying):
    """Takes a little time over each turn."""

    async def answer(self, conversations):
        async for outcome in super().answer(conversations):
            await asyncio.sleep(0.02)
            yield outcome


def test_a_disk_that_fails_once_in_the_middle_stops_the_run_by_name(tmp_path, monkeypatch):
    prompts = [prompt(f"p{number}") for number in range(50)]
    answerer = Slowly(*[turn(id=one["id"]) for one in prompts])
    write_to_disk = os.fsync
    calls = []

    def fail_once(number):
        calls.append(number)
        if len(calls) == 1:
            raise OSError("the disk is full")
        write_to_disk(number)

    monkeypatch.setattr("eagle_hf.data.answers.collecting.SYNC_S", 0.01)
    monkeypatch.setattr(os, "fsync", fail_once)
    with (
        TurnStore(tmp_path) as store,
        pytest.raises(ValueError, match="cannot be written .the disk is full.; a rerun goes on"),
    ):
        asyncio.run(collect_answers(answerer, prompts, store))
    assert 0 < len(answerer.asked) < 50


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with (
        only_one_run(tmp_path),
        TurnStore(tmp_path) as store,
        pytest.raises(ValueError, match="another run is writing"),
    ):
        asyncio.run(collect_answers(Replaying(turn()), [prompt()], store))


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"tools": "{"}, "tools is no JSON"),
        ({"tools": {"name": "f"}}, "tools is of type dict"),
        ({"chat_template_kwargs": {"messages": []}}, "no variable of a template"),
    ],
)
def test_a_prompt_with_arguments_that_are_none_is_skipped_by_name(extra, reason, tmp_path):
    bad = prompt("p1", **extra)
    with AnswerServer() as server:
        report = write_served_responses([server.url], [prompt(), bad], tmp_path, settings())
    assert report.finished == 1
    [row] = report.skipped
    assert row.id == "p1"
    assert reason in row.reason


def stored(folder):
    """Every turn that is kept, by its key."""
    turns = {}
    with TurnStore(folder) as store:
        for one in store.prompts():
            for kept in store.turns(one["id"]):
                turns[kept.id, kept.turn] = kept
    return turns


def answer_in_child(url, folder):
    prompts = [prompt(f"p{number}", "a", "b") for number in range(40)]
    write_served_responses([url], prompts, folder, settings())


def test_kill_9_loses_no_finished_turn_and_makes_no_second_answer(tmp_path):
    def slowly(server, body):
        return Reply(with_ids(f"answer {server.counts.total()}"), delay_s=0.005)

    with AnswerServer(slowly) as server:
        for kills in (20, 45):
            child = get_context("fork").Process(target=answer_in_child, args=(server.url, tmp_path))
            child.start()
            deadline = time.monotonic() + 10
            while server.counts.total() < kills and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        with TurnStore(tmp_path) as store:
            kept = {
                (one["id"], n.turn): n for one in store.prompts() for n in store.turns(one["id"])
            }
        answer_in_child(server.url, tmp_path)
        asked = server.counts.total()
    rows = read_rows(tmp_path)
    assert sorted(row["id"] for row in rows) == sorted(f"p{number}" for number in range(40))
    assert asked - 80 <= 2 * 4  # what was in flight, at each kill
    after = stored(tmp_path)
    assert len(kept) > 20
    assert {key: after[key] for key in kept} == kept


def write_to_a_full_disk(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
    with ConversationFile(folder) as file:
        with pytest.raises(ValueError, match="cannot be written.*a rerun goes on"):
            for number in range(100):
                file.add(prompt(f"p{number}"), [turn()])
        assert file.holds(prompt("p1"))


def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path):
    child = get_context("fork").Process(target=write_to_a_full_disk, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    with ConversationFile(tmp_path) as file:  # which cuts the torn line off
        rows = read_rows(tmp_path)
        assert len(rows) > 1
        assert all(file.holds(prompt(row["id"])) for row in rows)
