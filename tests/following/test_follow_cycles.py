"""Cycles on a tiny service: what is learnt, held out, published and kept."""

import json

import pytest
import torch

from eagle_hf import Eagle3DraftHead
from eagle_hf.following import follow, follower, learning
from eagle_hf.following.choosing import choose_split


def current_head(service):
    return Eagle3DraftHead.from_pretrained(service.out / "current", tree="saved")


def test_a_better_head_is_published_and_the_log_read_once(service):
    service.write(0, 100)
    said = service.follow()
    assert "100 new lines: 100 new conversations, 0 repeated, 0 bad lines" in said
    assert "published as version 2" in said
    (line,) = service.versions.history()
    assert line["verdict"] == "published"
    assert line["interval"][0] > 0
    assert line["tau_new"] > line["tau_old"] >= 1
    assert (line["learnt"], line["held_out"], line["replayed"]) == (80, 20, 0)
    assert line["agreement"] == 1.0
    assert line["tokens_learnt"] == 80 * 10 * 4
    head = current_head(service)
    assert head.dtype == torch.bfloat16
    assert str(head.tree) == "chain:3:1:3"
    assert head.acceptance is not None
    assert sorted(path.name for path in (service.out / "versions").iterdir()) == ["0001", "0002"]
    assert not list(service.out.glob("cycle-*"))

    assert service.follow() == (
        "nothing new to learn: 0 new conversations, a cycle begins with 60; current is version 2"
    )
    assert len(service.versions.history()) == 1


def test_a_head_that_is_not_better_is_not_published_and_what_it_read_is_learnt_again(service):
    service.write(0, 100)
    said = service.follow(learning_rate=1e-12, epochs=1)
    assert "not above 0, version 1 stays" in said
    assert service.versions.current() == 1
    service.write(100, 170)
    service.follow()
    first, second = service.versions.history()
    assert (first["verdict"], first["version"]) == ("not better", None)
    assert (second["verdict"], second["version"]) == ("published", 2)
    # all of the first cycle, held out or not, and what is new and not held out
    assert second["learnt"] == 100 + 70 - 20
    assert second["replayed"] == 0


def test_a_worse_head_is_not_published(service):
    service.write(0, 100)
    service.follow()
    service.write(100, 200)
    service.follow(learning_rate=3.0, epochs=1)
    line = service.versions.history()[-1]
    assert line["verdict"] in ("not better", "diverged")
    assert service.versions.current() == 2


def test_a_training_that_diverges_is_told_and_the_next_cycle_begins_with_the_current_head(
    service, monkeypatch
):
    def infinite(settings, folder):
        arguments = original(settings, folder)
        arguments.learning_rate = float("inf")
        return arguments

    original = learning.training_arguments
    service.write(0, 100)
    with monkeypatch.context() as patch:
        patch.setattr(learning, "training_arguments", infinite)
        said = service.follow()
    assert "the training diverged; version 1 stays" in said
    service.write(100, 170)
    service.follow()
    verdicts = [line["verdict"] for line in service.versions.history()]
    assert verdicts == ["diverged", "published"]
    assert service.versions.history()[1]["base"] == 1


def test_older_conversations_are_replayed_after_a_publication(service):
    service.write(0, 100)
    service.follow()
    service.write(100, 180)
    service.follow(replay=0.5, reservoir=30)
    line = service.versions.history()[-1]
    # those held out before and the new ones; of the 80 learnt ones those that the reservoir holds
    assert line["learnt"] == 20 + 80 - 20
    assert line["replayed"] == 30
    pool = service.pool()
    assert len(pool.older()) == 30
    pool.close()


def test_what_is_held_out_is_the_newest_and_never_trained_in_its_cycle(service):
    service.write(0, 100)
    # an earlier answer to a prompt that is among the newest
    service.rows = [dict(service.rows[99], id="other", token_ids=[5, 6, 7]), *service.rows]
    service.write(0, 1, "0.jsonl")
    service.follow(min_new=150)  # only reads
    pool = service.pool()
    split = choose_split(pool, service.settings(), 1)
    learnt = pool.examples(split.learnt)
    held_out = pool.examples(split.held_out)
    pool.close()
    asked = [tuple(example["input_ids"][:5]) for example in held_out]
    assert len(set(asked)) == 20
    for example in learnt:
        assert tuple(example["input_ids"][:5]) not in asked
    assert not set(split.learnt) & set(split.held_out)
    assert max(split.learnt) < min(split.held_out)


def test_the_last_versions_stay_and_the_current_one_always(service):
    for begin in range(0, 180, 60):
        service.write(begin, begin + 60)
        service.follow(keep=2)
    published = [line["version"] for line in service.versions.history() if line["version"]]
    assert len(published) >= 2
    assert service.versions.numbers() == published[-2:]
    assert service.versions.current() == published[-1]


def test_a_cycle_begins_with_the_version_that_was_set_back_by_hand(service):
    service.write(0, 60)
    service.follow()
    assert service.versions.current() == 2
    service.versions.switch(1)
    service.write(60, 120)
    service.follow(keep=1)
    line = service.versions.history()[-1]
    assert (line["base"], line["version"]) == (1, 3)
    assert service.versions.numbers() == [3]


def test_a_published_version_is_pushed_once_and_a_failed_push_tried_again(service, monkeypatch):
    pushed = []

    def refuse(folder, repo_id, **settings):
        raise ValueError("was not pushed")

    def push(folder, repo_id, **settings):
        pushed.append((folder.name, repo_id, settings["private"]))

    service.write(0, 60)
    monkeypatch.setattr(follower, "push_folder", refuse)
    with pytest.raises(ValueError, match="was not pushed"):
        service.follow(hub_id="you/head", private=True)
    assert service.versions.current() == 2
    monkeypatch.setattr(follower, "push_folder", push)
    assert "version 2 was pushed to you/head" in service.follow(hub_id="you/head", private=True)
    service.follow(hub_id="you/head", private=True)
    assert pushed == [("0002", "you/head", True)]


def test_every_repeats_until_it_is_stopped(service):
    service.write(0, 60)
    said = []

    class Stopped(Exception):
        pass

    def listen(line):
        said.append(line)
        if line.startswith("nothing new"):
            raise Stopped

    with pytest.raises(Stopped):
        follow(service.settings(every=1e-4), listen)
    assert "published as version 2" in said[-2]


def test_history_is_json_lines(service):
    service.write(0, 60)
    service.follow()
    (text,) = (service.out / "history.jsonl").read_text().splitlines()
    assert set(json.loads(text)) == {
        "agreement",
        "base",
        "cycle",
        "epochs",
        "held_out",
        "interval",
        "learnt",
        "measuring_seconds",
        "replayed",
        "steps",
        "tau_new",
        "tau_old",
        "time",
        "tokens_learnt",
        "training_seconds",
        "tree",
        "verdict",
        "version",
    }
