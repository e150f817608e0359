"""What cannot be followed is refused with a remedy, before minutes are spent on it."""

import json
import shutil
from collections import namedtuple

import pytest
import torch
from tiny import tiny_head, tiny_target

from eagle_hf.data.manifest import only_one_run
from eagle_hf.following import learning


def test_two_calls_do_not_run_at_once(service):
    service.write(0, 10)
    with only_one_run(service.out), pytest.raises(ValueError, match="another run is writing to"):
        service.follow()


def test_a_head_of_another_target_is_refused(service, tmp_path):
    service.write(0, 10)
    tiny_head(tiny_target(hidden_size=16)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="made for a target with hidden size 16"):
        service.follow(head=str(tmp_path / "other"))
    assert not (service.out / "versions").exists()


@pytest.mark.parametrize("what", ["target", "head"])
def test_an_output_folder_of_another_target_or_head_is_refused(service, tmp_path, what):
    service.write(0, 10)
    service.follow()
    other = tiny_target(seed=5, dtype=torch.float32)
    model = other if what == "target" else tiny_head(other, seed=6)
    model.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "target" / "tokenizer.json", tmp_path / "other")
    shutil.copy(tmp_path / "target" / "tokenizer_config.json", tmp_path / "other")
    service.write(10, 80)
    with pytest.raises(ValueError, match=f"{what}_weights is"):
        service.follow(**{what: str(tmp_path / "other")})


def test_a_log_of_messages_alone_is_refused_every_time(service):
    service.log.mkdir()
    messages = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]
    line = json.dumps({"messages": messages}) + "\n"
    (service.log / "a.jsonl").write_text(line)
    with pytest.raises(ValueError, match="no line of the log .* could be used so far: .*token ids"):
        service.follow()
    with (service.log / "a.jsonl").open("a") as log:
        log.write(line)
    with pytest.raises(ValueError, match="no line of the log"):
        service.follow()
    service.write(0, 1)
    assert "1 new conversations" in service.follow()


def test_conversations_that_eagle_hf_wrote_are_read_by_token(service):
    service.log.mkdir()
    row = {
        "id": "kept",
        "messages": [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6 w7"}],
        "served_turns": [
            {"prompt_ids": [3, 5, 2, 4], "response_ids": [6, 7, 2], "finish_reason": "stop"}
        ],
        "format": 2,
    }
    (service.log / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert "1 new conversations" in service.follow()
    pool = service.pool()
    (example,) = pool.examples([1])
    pool.close()
    assert example["input_ids"] == [3, 5, 2, 4, 6, 7, 2]
    assert example["loss_mask"] == [0, 0, 0, 0, 1, 1, 1]


def test_answers_of_another_tokenizer_are_refused_before_training(service):
    generator = torch.Generator().manual_seed(3)
    for row in service.rows[:60]:
        shuffled = torch.randint(3, 31, (10,), generator=generator).tolist()
        service.rows[service.rows.index(row)] = row | {"token_ids": shuffled}
    service.write(0, 60)
    with pytest.raises(ValueError, match="the target would have chosen .* of the tokens"):
        service.follow()
    assert service.versions.history() == []


def test_too_few_different_prompts_wait(service):
    for number in range(60):
        row = service.rows[number % 3]
        answer = [5 + number % 20, 6 + number // 20, *row["token_ids"]]
        service.rows[number] = row | {"token_ids": answer}
    service.write(0, 60)
    assert "nothing to measure on yet: the 60 new conversations have 3 different" in (
        service.follow()
    )


def test_a_disk_without_room_is_told_and_the_next_call_goes_on(service, monkeypatch):
    service.write(0, 60)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(learning.shutil, "disk_usage", lambda folder: usage(1, 1, 1000))
        with pytest.raises(ValueError, match="its disk has 0 MB free; free space"):
            service.follow()
    assert "version" in service.follow(epochs=1)
    assert len(service.versions.history()) == 1


def test_the_output_folder_lies_outside_of_the_log(service):
    service.write(0, 1)
    with pytest.raises(ValueError, match="inside the log"):
        service.follow(out=service.log / "out")


def test_a_broken_current_is_told(service):
    service.write(0, 1)
    service.follow()
    (service.out / "current").unlink()
    (service.out / "current").symlink_to("versions/0009")
    with pytest.raises(ValueError, match="leads to no version; .* are 0001: ln -sfn"):
        service.follow()


@pytest.mark.parametrize(
    "changes",
    [
        {"minutes": 0},
        {"every": -1.0},
        {"held_out": 1.0},
        {"most_held_out": 5},
        {"min_new": 20},
        {"most_new": 50},
        {"keep": 0},
        {"replay": 1.0},
        {"tree": "bush"},
        {"hub_id": "no-user"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(service, changes):
    with pytest.raises(ValueError, match="is|needed"):
        service.settings(**changes)
