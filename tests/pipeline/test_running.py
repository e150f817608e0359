"""A run makes what is missing, says why, and loses nothing."""

import json

import pytest

from eagle_hf.data import Features, load_conversations
from eagle_hf.pipeline import Inputs, RunTarget, describe_steps

STEPS = ["prompts", "privacy", "answers", "conversations", "examples", "features"]


def verdicts(out):
    """The line of each step, by its name."""
    found = {}
    for line in out.splitlines():
        name, _, verdict = line.partition(" ")
        if name in STEPS:
            found[name] = verdict.strip()
    return found


def test_a_run_goes_from_prompts_to_features(workplace, capsys):
    metrics = workplace.run()
    assert list(metrics) == STEPS
    assert metrics["answers"]["finished"] + metrics["answers"]["skipped"] == 8
    conversations = workplace.rows("conversations/conversations.jsonl")
    assert len(conversations) == metrics["conversations"]["conversations"] > 4
    assert len(load_conversations(workplace.output / "conversations")) == len(conversations)
    examples = workplace.rows("examples/examples.jsonl")
    assert metrics["examples"]["learnt_tokens"] == sum(sum(row["loss_mask"]) for row in examples)
    assert Features(workplace.output / "features").ids == [row["id"] for row in examples]
    assert verdicts(capsys.readouterr().out) == dict.fromkeys(STEPS, "begins")


def test_a_rerun_finds_everything_done_and_opens_no_target(finished, capsys, monkeypatch):
    workplace, first = finished
    monkeypatch.setattr("eagle_hf.pipeline.target.open_target", None)
    assert workplace.run() == first
    assert verdicts(capsys.readouterr().out) == dict.fromkeys(STEPS, "done")


@pytest.mark.parametrize(
    ("change", "again", "reason"),
    [
        ({"answers__max_new_tokens": 9}, STEPS[2:], "answers.max_new_tokens was 12 and is 9"),
        ({"answers__temperature": 0.7}, STEPS[2:], "answers.temperature was 0.0 and is 0.7"),
        ({"examples__max_length": 40}, STEPS[4:5], "examples.max_length was null and is 40"),
        ({"features__storage_dtype": "int8"}, STEPS[5:], "features.storage_dtype was"),
        ({"answers__batch_size": 2}, [], ""),
        ({"answers__timeout_s": 5.0}, [], ""),
        # nothing is redacted either way, so its output and all that follows stay
        ({"privacy__action": "drop"}, ["privacy", "conversations"], "privacy.action was"),
        ({"prompts__max_characters": 900}, ["prompts"], "prompts.max_characters was null and is"),
    ],
)
def test_a_changed_setting_runs_its_dependants_again(finished, capsys, change, again, reason):
    workplace, _ = finished
    workplace.run(**change)
    found = verdicts(capsys.readouterr().out)
    assert [name for name in STEPS if found[name] != "done"] == again
    if again:
        assert found[again[0]].startswith(f"runs again because {reason}")


def test_what_a_step_made_before_is_kept_beside(finished):
    workplace, _ = finished
    before = (workplace.output / "answers" / "conversations.jsonl").read_text()
    workplace.run(answers__max_new_tokens=9)
    workplace.run(answers__max_new_tokens=8)
    kept = workplace.output / "answers.old-1" / "conversations.jsonl"
    assert kept.read_text() == before
    assert (workplace.output / "answers.old-2").is_dir()


def test_more_prompts_are_answered_without_asking_the_old_ones_again(workplace, capsys):
    first = workplace.run(max_prompts=3)
    capsys.readouterr()
    second = workplace.run()
    found = verdicts(capsys.readouterr().out)
    assert found["answers"].startswith("goes on")
    assert second["answers"]["already_there"] == first["answers"]["finished"]
    assert second["conversations"]["conversations"] > first["conversations"]["conversations"]


def test_answers_to_other_prompts_are_not_used(finished):
    workplace, everything = finished
    fewer = workplace.run(max_prompts=3)
    assert fewer["conversations"]["conversations"] <= 3
    assert fewer["conversations"]["of_other_prompts"] > 0
    ids = {row["id"] for row in workplace.rows("conversations/conversations.jsonl")}
    assert ids <= {"q0", "q1", "q2"}
    again = workplace.run()
    assert again["conversations"]["conversations"] == everything["conversations"]["conversations"]


def test_only_one_step_and_never_on_stale_ones(finished):
    workplace, _ = finished
    with pytest.raises(ValueError, match="examples is made from conversations, which"):
        workplace.run(only=["examples"], privacy__action="drop")
    with pytest.raises(ValueError, match="'feature' is no step"):
        workplace.run(only=["feature"])
    assert list(workplace.run(only=["examples"], examples__train_on="last_turn"))[-1] == "examples"


def test_a_step_alone_sees_that_more_prompts_are_asked_now(workplace):
    workplace.run(max_prompts=2)
    with pytest.raises(ValueError, match="made from answers, which goes on: the output of privacy"):
        workplace.run(only=["conversations"], max_prompts=5)
    workplace.run(only=["conversations"], max_prompts=2)


def test_a_look_at_the_steps_writes_nothing(workplace):
    workplace.run(only=["prompts", "privacy"], max_prompts=2)
    before = sorted(workplace.output.rglob("*"))
    config = workplace.config(max_prompts=2)
    lines = describe_steps(Inputs(config, RunTarget(config)))
    assert lines[2].split() == ["answers", "begins"]
    assert sorted(workplace.output.rglob("*")) == before


def test_prompts_edited_by_hand_are_used(workplace, capsys):
    workplace.run(only=["prompts"])
    path = workplace.output / "prompts" / "prompts.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]))
    metrics = workplace.run()
    assert metrics["answers"]["prompts"] == 4
    assert "prompts.jsonl was edited since, and is used as it is" in capsys.readouterr().out


def test_an_edited_source_file_is_read_again(workplace, capsys):
    workplace.run()
    capsys.readouterr()
    with workplace.file.open("a") as file:
        file.write(json.dumps({"id": "new", "turns": ["w5 w6 w7"]}) + "\n")
    metrics = workplace.run()
    assert verdicts(capsys.readouterr().out)["prompts"].startswith("runs again because")
    assert metrics["answers"]["already_there"] + metrics["answers"]["skipped"] >= 7
    assert metrics["prompts"]["prompts"] == 9


def test_another_target_under_the_same_name_answers_anew(workplace, capsys, tmp_path):
    import shutil

    import torch
    from tiny import tiny_target

    copy = tmp_path / "copy"
    shutil.copytree(workplace.flags["target"], copy)
    workplace.run(target=str(copy))
    capsys.readouterr()
    tiny_target(dtype=torch.float32, eos_token_id=2, seed=5).save_pretrained(copy)
    workplace.run(target=str(copy))
    assert verdicts(capsys.readouterr().out)["answers"] == "runs again because the target changed"


def test_two_runs_at_once_are_refused(workplace):
    from eagle_hf.data.manifest import only_one_run

    with (
        only_one_run(workplace.output),
        pytest.raises(ValueError, match="another run is writing"),
    ):
        workplace.run()


def test_half_a_surrogate_in_an_edited_file_skips_its_row(workplace):
    workplace.run(only=["prompts"])
    path = workplace.output / "prompts" / "prompts.jsonl"
    with path.open("a") as file:
        file.write('{"id": "half", "turns": ["w5 \\ud83d"], "category": "c", "source": "s"}\n')
    metrics = workplace.run()
    assert metrics["privacy"]["rows"] == 9
    assert "half" not in {row["id"] for row in workplace.rows("examples/examples.jsonl")}
