"""Turns on shared storage: none is lost with a node, and two workers' turns are never mixed."""

import json
from pathlib import Path

import fsspec
import pytest

from eagle_hf.cluster.opening import OpenRunAnswerer
from eagle_hf.cluster.parts import PartFolder, PartStore, take_turns
from eagle_hf.cluster.stages import Workers
from eagle_hf.data import TurnStore, load_conversations
from eagle_hf.data.answers import FinishedTurn
from eagle_hf.pipeline import RunTarget, read_config

PROMPT = {"id": "a", "turns": ["one", "two"], "category": "other", "source": "test"}


@pytest.fixture
def bucket():
    """The URL of a bucket on an S3 server of our own, reached over HTTP."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "x")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["folder", "memory"])
def parts(request, tmp_path):
    """Parts in a folder, and in an object store."""
    if request.param == "folder":
        return PartFolder(str(tmp_path / "parts"))
    fsspec.filesystem("memory").store.clear()
    return PartFolder("memory://bucket/parts")


def answer(turn, text="hello"):
    """A finished turn of the prompt."""
    return FinishedTurn(
        id="a",
        turn=turn,
        text=text,
        reasoning="",
        finish_reason="stop",
        prompt_ids=[1, 2],
        prompt_ids_from="served",
        response_ids=[3, turn],
        response_ids_from="served",
        prompt_tokens=2,
        sampled_tokens=2,
        model="tiny",
    )


def write_part(parts, folder, turns, unit="run-000000"):
    """The turns of a worker that dies behind its last sync."""
    with PartStore(folder, parts, unit) as store:
        for turn in turns:
            store.add(PROMPT, turn)
            store.sync()


def taken(parts, folder):
    """What a run takes out of the parts."""
    with TurnStore(folder) as store:
        take_turns(store, parts.turns(), "tiny")
        return store.turns("a")


def test_a_turn_is_on_shared_storage_from_the_sync_on(parts, tmp_path):
    with PartStore(tmp_path / "node", parts, "run-000000") as store:
        store.add(PROMPT, answer(0))
        assert not list(parts.turns())
        store.sync()
        assert [(turn.id, turn.turn) for _, turn, _ in parts.turns()] == [("a", 0)]


def test_another_run_takes_what_a_dead_worker_has_written(parts, tmp_path):
    write_part(parts, tmp_path / "node", [answer(0), answer(1)])
    assert taken(parts, tmp_path / "driver") == [answer(0), answer(1)]


def test_another_worker_goes_on_where_the_dead_one_was(parts, tmp_path):
    write_part(parts, tmp_path / "one", [answer(0)])
    with TurnStore(tmp_path / "two") as store:
        take_turns(store, parts.turns("run-000000"), "tiny")
    write_part(parts, tmp_path / "two", [answer(1)])
    assert taken(parts, tmp_path / "driver") == [answer(0), answer(1)]
    assert len(parts.names("run-000000")) == len({*parts.names()})


def test_an_s3_bucket_holds_parts_as_a_folder_does(bucket, tmp_path):
    parts = PartFolder(f"{bucket}/run/parts")
    write_part(parts, tmp_path / "node", [answer(0), answer(1)])
    assert len(parts.names("run-000000")) == 2  # an object for each sync
    assert taken(parts, tmp_path / "driver") == [answer(0), answer(1)]
    parts.remove()
    assert not parts.names()


def test_answers_of_two_workers_to_one_prompt_are_not_mixed(parts, tmp_path):
    # The second worker did not see the first one's answer, and said something else.
    write_part(parts, tmp_path / "one", [answer(0, "yes")])
    write_part(parts, tmp_path / "two", [answer(0, "no"), answer(1, "because not")])
    assert taken(parts, tmp_path / "driver") == [answer(0, "yes")]


def test_a_turn_that_is_there_is_never_replaced(parts, tmp_path):
    with TurnStore(tmp_path / "driver") as store:
        store.add(PROMPT, answer(0, "first"))
    write_part(parts, tmp_path / "node", [answer(0, "second"), answer(1)])
    assert taken(parts, tmp_path / "driver") == [answer(0, "first")]


def test_a_torn_line_costs_that_turn_alone(tmp_path):
    parts = PartFolder(str(tmp_path / "parts"))
    write_part(parts, tmp_path / "node", [answer(0), answer(1)])
    path = Path(parts.names()[0])
    path.write_bytes(path.read_bytes()[:-10])
    assert taken(parts, tmp_path / "driver") == [answer(0)]


def test_text_of_any_kind_comes_back(parts, tmp_path):
    said = answer(0, "naïve \u2028 \n 日本語 🦆")
    write_part(parts, tmp_path / "node", [said])
    assert taken(parts, tmp_path / "driver") == [said]


def test_answers_of_another_target_are_refused(parts, tmp_path):
    write_part(parts, tmp_path / "node", [answer(0)])
    refused = pytest.raises(ValueError, match="hold answers of 'tiny', and 'other' answers now")
    with TurnStore(tmp_path / "driver") as store, refused:
        take_turns(store, parts.turns(), "other")


def test_an_answer_to_another_question_under_the_same_id_is_left(parts, tmp_path):
    write_part(parts, tmp_path / "node", [answer(0)])
    with TurnStore(tmp_path / "driver") as store:
        asked = [PROMPT | {"turns": ["three"]}]
        assert take_turns(store, parts.turns(), "tiny", asked) == 0
        assert take_turns(store, parts.turns(), "tiny", [PROMPT]) == 1


def test_removed_parts_are_gone(parts, tmp_path):
    write_part(parts, tmp_path / "node", [answer(0)])
    parts.remove()
    assert not parts.names()


def test_a_part_holds_one_json_object_a_line(tmp_path):
    parts = PartFolder(str(tmp_path / "parts"))
    write_part(parts, tmp_path / "node", [answer(0), answer(1)])
    lines = Path(parts.names()[0]).read_text().splitlines()
    assert [json.loads(line)["turn"]["turn"] for line in lines] == [0, 1]


def test_a_finished_file_lies_beside_the_parts_and_is_read_from_there(tmp_path):
    parts = PartFolder("memory://bucket/run/parts")
    row = {"id": "a", "messages": [{"role": "user", "content": "hi"}]}
    row["messages"].append({"role": "assistant", "content": "hello"})
    (tmp_path / "conversations.jsonl").write_text(json.dumps(row) + "\n")
    parts.put(tmp_path / "conversations.jsonl", "memory://bucket/run/conversations.jsonl")
    rows = load_conversations("memory://bucket/run/conversations.jsonl")
    assert [found["id"] for found in rows] == ["a"]


def test_storage_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="cannot be opened"):
        PartFolder("gopher://host/parts")


def parts_url(folder, **answers):
    """Where a run has its parts, in storage that several runs share."""
    settings = {f"answers.{name}": value for name, value in answers.items()}
    flags = {
        "target": "tiny",
        "output_dir": str(folder),
        "prompts.magpie": 1,
        "cluster.storage": "memory://bucket",
        "answers.model": "tiny",
        "answers.servers": ["http://nobody:1"],
    }
    config = read_config(None, flags | settings)
    opening = OpenRunAnswerer.of_run(config, folder / "answers", Workers())
    manifest = opening.manifest("tiny", RunTarget(config))
    return opening.parts_url(folder / "answers", manifest)


def test_runs_of_other_settings_or_folders_neither_take_nor_remove_parts(tmp_path):
    hot = PartFolder(parts_url(tmp_path, temperature=1.0))
    write_part(hot, tmp_path / "node", [answer(0, "hot")])
    for url in (parts_url(tmp_path), parts_url(tmp_path / "other", temperature=1.0)):
        parts = PartFolder(url)
        assert taken(parts, tmp_path / "driver") == []
        parts.remove()
    again = PartFolder(parts_url(tmp_path, temperature=1.0))
    assert taken(again, tmp_path / "driver") == [answer(0, "hot")]
    fsspec.filesystem("memory").store.clear()
