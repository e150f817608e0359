"""Shards by id: together they are the whole run, whoever made them and in whatever order."""

import shutil

import pytest

from eagle_hf.data import Features
from eagle_hf.pipeline import LocalExecutor, RunTarget, Shard, merge_shards

STEPS = ["prompts", "privacy", "answers", "conversations", "examples"]


def merge(workplace, **changes):
    config = workplace.config(**changes)
    target = RunTarget(config)
    return merge_shards(config, target, LocalExecutor(target))


def by_id(rows):
    return {row["id"]: row for row in rows}


def test_every_id_has_one_shard():
    for name in ("q0", "magpie/0/17", "Straße", "\ud83d"):
        assert sum(Shard(number, 5).holds(name) for number in range(5)) == 1


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "1/0", "-1/2", "0/2/4"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="the shard is"):
        Shard.read(text)


def test_shards_joined_are_the_run_that_was_not_sharded(workplace):
    steps = ["prompts", "privacy", "answers", "conversations", "examples"]
    whole = workplace.run(steps=steps, output_dir=str(workplace.folder / "whole"))
    workplace.run(steps=steps, only=["prompts", "privacy"])
    for number in (2, 0, 1):
        workplace.run(steps=steps, shard=Shard(number, 3))
    metrics = merge(workplace, steps=steps)
    name = "conversations/conversations.jsonl"
    assert by_id(workplace.rows(name)) == by_id(workplace.rows(f"../whole/{name}"))
    assert metrics["examples"]["learnt_tokens"] == whole["examples"]["learnt_tokens"]
    assert metrics["answers"]["prompts"] == 8


def test_a_shard_waits_for_the_steps_before_it(workplace):
    with pytest.raises(ValueError, match="run the steps before answers first, without --shard"):
        workplace.run(shard=Shard(0, 2))
    with pytest.raises(ValueError, match="prompts is not made in shards"):
        workplace.run(shard=Shard(0, 2), only=["prompts"])


def test_unfinished_and_mixed_shards_are_not_joined(workplace):
    workplace.run(only=["prompts", "privacy"])
    with pytest.raises(ValueError, match="holds no shards"):
        merge(workplace)
    workplace.run(shard=Shard(0, 2))
    with pytest.raises(ValueError, match="shard 1/2 is not finished, its answers step begins"):
        merge(workplace)
    workplace.run(shard=Shard(1, 2))
    with pytest.raises(ValueError, match=r"shard 0/2 .* runs again because answers.max_new_tokens"):
        merge(workplace, answers__max_new_tokens=5)
    workplace.run(shard=Shard(0, 3))
    with pytest.raises(ValueError, match="divisions into 2 and 3"):
        merge(workplace)


def test_more_shards_than_prompts(workplace):
    steps = ["prompts", "answers", "conversations"]
    workplace.run(steps=steps, only=["prompts"], max_prompts=1)
    for number in range(3):
        workplace.run(steps=steps, shard=Shard(number, 3), max_prompts=1)
    assert merge(workplace, steps=steps, max_prompts=1)["answers"]["prompts"] == 1


def test_features_are_captured_in_shards_and_joined(workplace, finished_run, capsys):
    workplace.run(only=["prompts", "privacy"])
    for number in range(2):
        workplace.run(shard=Shard(number, 2))
    merge(workplace)
    assert "features are left" in capsys.readouterr().out
    for number in range(2):
        workplace.run(shard=Shard(number, 2), only=["features"])
    metrics = merge(workplace)
    joined = Features(workplace.output / "features")
    whole = Features(finished_run[0].output / "features")
    assert sorted(joined.ids) == sorted(whole.ids)
    assert metrics["features"]["tokens"] == sum(joined.lengths) == sum(whole.lengths)
    mine = joined[joined.ids.index("q0")]
    theirs = whole[whole.ids.index("q0")]
    assert mine["input_ids"].tolist() == theirs["input_ids"].tolist()
    capsys.readouterr()
    workplace.run()
    assert "features      done" in capsys.readouterr().out


def test_features_of_a_shard_leave_the_prompts_of_the_run_alone(workplace):
    workplace.run(max_prompts=6, steps=[*STEPS, "features"], only=STEPS)
    asked = workplace.rows("asked.jsonl")
    workplace.run(max_prompts=6, shard=Shard(0, 2), only=["features"])
    assert workplace.rows("asked.jsonl") == asked
    assert len(asked) == 6


def test_features_of_other_settings_are_kept_beside(workplace, finished_run):
    shutil.copytree(finished_run[0].output, workplace.output)
    workplace.flags["prompts.sources"] = finished_run[0].flags["prompts.sources"]
    workplace.run(shard=Shard(0, 2), only=["features"])
    workplace.run(shard=Shard(0, 2), only=["features"], features__storage_dtype="bfloat16")
    features = workplace.output / "features"
    assert Features(features / "0-of-2").manifest["dtype"] == "bfloat16"
    assert Features(features / "0-of-2.old-1").manifest["dtype"] == "float32"
