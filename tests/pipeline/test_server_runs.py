"""A run whose answers come from servers, over real HTTP."""

import json

import pytest
from answer_server import AnswerServer, Reply, last_question, with_ids
from workplaces import prompt_rows, write_prompt_file

from eagle_hf.pipeline import (
    Inputs,
    LocalExecutor,
    RunTarget,
    Shard,
    measure_sample,
    merge_shards,
    sample_prompts,
)

STEPS = ["prompts", "privacy", "answers", "conversations", "examples"]


def answer_in_words(server, body):
    """An answer whose ids spell it: w8 w9 and the end of the turn."""
    ids = [int(word[1:]) for word in last_question(body).split()]
    payload = with_ids("w8 w9", model=body["model"])
    payload["prompt_token_ids"] = [3, *ids, 2, 4]
    payload["choices"][0]["token_ids"] = [8, 9, 2]
    return Reply(payload)


def served(server, **changes):
    return {"steps": STEPS, "answers__servers": [server.url], "answers__model": "tiny"} | changes


def test_servers_answer_and_no_weights_are_read(workplace, monkeypatch):
    monkeypatch.setattr("eagle_hf.pipeline.target.open_target", None)
    with AnswerServer(answer_in_words) as server:
        metrics = workplace.run(**served(server))
        assert metrics["answers"]["finished"] == 8
        assert {body["model"] for body in server.asked} == {"tiny"}
    examples = workplace.rows("examples/examples.jsonl")
    first = next(row for row in examples if row["id"] == "q0")
    assert first["input_ids"] == [3, 5, 6, 2, 4, 8, 9, 2]
    assert first["loss_mask"] == [0, 0, 0, 0, 0, 1, 1, 1]


def test_prompts_that_a_dead_server_left_are_asked_by_the_next_run(workplace, capsys):
    def answer_some(server, body):
        if last_question(body).startswith(("w5", "w6")):
            return Reply(status=500, body=b"")
        return answer_in_words(server, body)

    with AnswerServer(answer_some) as server:
        few = served(server, answers__attempts=1)
        first = workplace.run(**few)
        assert first["answers"]["failed"] == 2
        assert first["conversations"]["unanswered"] == 2
        server.answer = answer_in_words
        capsys.readouterr()
        second = workplace.run(**few)
        assert sum(server.counts.values()) == 9 + 2  # one prompt has two turns
    assert second["answers"]["already_there"] == 6
    assert second["answers"]["finished"] == 2
    assert second["examples"]["examples"] >= 8
    out = capsys.readouterr().out
    assert "answers       goes on: 2 failed last time" in out
    assert "conversations runs again because the output of answers changed" in out


def merged(workplace, **changes):
    """The shards of a run, joined."""
    config = workplace.config(**changes)
    target = RunTarget(config)
    return merge_shards(config, target, LocalExecutor(target))


@pytest.mark.parametrize("poison", [("w5",), ("w5", "w7", "w9", "w11")])
def test_prompts_that_no_server_answers_do_not_hold_up_the_other_shards(workplace, capsys, poison):
    def answer_others(server, body):
        if last_question(body).startswith(poison):
            return Reply(status=500, body=b"")
        return answer_in_words(server, body)

    rows = prompt_rows(6)
    for number, row in enumerate(rows):
        row["turns"] = [f"w{5 + number} w6"]
    write_prompt_file(workplace.file, rows)
    steps = [step for step in STEPS if step != "privacy"]
    with AnswerServer(answer_others) as server:
        few = served(server, answers__attempts=1, steps=steps)
        workplace.run(only=["prompts"], **few)
        for number in range(3):
            workplace.run(shard=Shard(number, 3), **few)
        metrics = merged(workplace, **few)
    assert metrics["answers"]["failed"] == len([n for n in range(6) if f"w{5 + n}" in poison])
    assert metrics["answers"]["finished"] + metrics["answers"]["failed"] == 6
    assert "failed last time; --shard" in capsys.readouterr().out


def test_a_shard_of_failed_prompts_alone_is_joined(workplace):
    def answer_others(server, body):
        if last_question(body).startswith("w5"):
            return Reply(status=500, body=b"")
        return answer_in_words(server, body)

    write_prompt_file(workplace.file, prompt_rows(2))
    steps = [step for step in STEPS if step != "privacy"]
    shards = [Shard(number, 16) for number in range(16) if Shard(number, 16).holds("q0")]
    with AnswerServer(answer_others) as server:
        few = served(server, answers__attempts=1, steps=steps)
        workplace.run(only=["prompts"], **few)
        assert not shards[0].holds("q1")
        assert workplace.run(shard=shards[0], **few)["answers"]["failed"] == 1


def measured(workplace, server):
    """A sample of two prompts, answered for a plan."""
    config = workplace.config(**served(server))
    target = RunTarget(config)
    inputs = Inputs(config, target)
    return measure_sample(inputs, LocalExecutor(target), sample_prompts(inputs, 2))


def test_no_personal_data_of_a_sample_reaches_the_servers(workplace):
    def answer_anything(server, body):
        return Reply(with_ids("w8 w9", model=body["model"]))

    rows = prompt_rows(2)
    rows[0]["turns"] = ["write to jane.doe@gmail.com"]
    write_prompt_file(workplace.file, rows)
    with AnswerServer(answer_anything) as server:
        assert measured(workplace, server).prompts == 2
        questions = {last_question(body) for body in server.asked}
    assert questions == {"write to [EMAIL]", "w6 w7"}


def test_a_sample_of_which_privacy_leaves_nothing_is_refused(workplace):
    rows = prompt_rows(2)
    for row in rows:
        row["turns"] = ["write to jane.doe@gmail.com"]
    write_prompt_file(workplace.file, rows)
    drop = {"privacy__actions": {"email": "drop"}}
    with AnswerServer(answer_in_words) as server:
        config = workplace.config(**served(server, **drop))
        inputs = Inputs(config, RunTarget(config))
        with pytest.raises(ValueError, match="leave none of the 2 prompts of the sample"):
            measure_sample(inputs, LocalExecutor(inputs.target), sample_prompts(inputs, 2))
        assert not server.asked


def test_the_key_of_the_servers_comes_from_the_environment_and_is_kept_nowhere(
    workplace, monkeypatch
):
    with AnswerServer(answer_in_words) as server:
        keyed = served(server, answers__api_key_variable="TINY_KEY")
        with pytest.raises(ValueError, match="TINY_KEY is not set"):
            workplace.run(**keyed)
        monkeypatch.setenv("TINY_KEY", "s3cr3t")
        workplace.run(**keyed)
        assert server.headers[0]["authorization"] == "Bearer s3cr3t"
    for path in workplace.output.rglob("*"):
        if path.is_file():
            assert b"s3cr3t" not in path.read_bytes(), path


def test_a_prompt_that_changed_is_asked_again_and_no_other(workplace, capsys):
    with AnswerServer(answer_in_words) as server:
        workplace.run(**served(server))
        lines = workplace.file.read_text().splitlines()
        changed = json.loads(lines[0]) | {"turns": ["w12 w13"]}
        workplace.file.write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
        server.counts.clear()
        metrics = workplace.run(**served(server))
        assert dict(server.counts) == {"w12 w13": 1}
    assert metrics["answers"]["already_there"] == 7
    assert "the old answers to prompts that changed: kept in" in capsys.readouterr().out
    rows = {row["id"]: row for row in workplace.rows("conversations/conversations.jsonl")}
    assert rows["q0"]["messages"][0]["content"] == "w12 w13"
    assert len(rows) == 8
    kept = workplace.rows("answers.old-1/conversations.jsonl")
    assert len(kept) == 8


def test_other_servers_of_the_same_target_go_on(workplace, capsys):
    with AnswerServer(answer_in_words) as first:
        workplace.run(**served(first))
    capsys.readouterr()
    # nobody listens at this address, and nobody is asked
    workplace.run(**served(first, answers__servers=["http://127.0.0.1:9"]))
    assert "answers       done" in capsys.readouterr().out
