"""Methods side by side: every one is lossless, counted, kept, and may fail alone."""

import json
import math

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import cli
from eagle_hf.evaluation.side_by_side import (
    Contest,
    KeptAnswers,
    Method,
    Setting,
    open_methods,
    summaries,
    table,
)

PROMPTS = [
    {"id": "p0", "category": "code", "turns": ["w5 w7 w5 w7 w5"]},
    {"id": "p1", "category": "chat", "turns": ["w6 w7"]},
    {"id": "p2", "category": "code", "turns": ["w7 w7"]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A target, its head and a smaller model, each in a folder."""
    folder = tmp_path_factory.mktemp("models")
    target = tiny_target(layers=4, dtype=torch.float32)
    small = tiny_target(layers=2, seed=3, dtype=torch.float32)
    for name, model in (("target", target), ("small", small)):
        model.save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)
    tiny_head(target).save_pretrained(folder / "head")
    return folder


def names_of(folder):
    small = folder / "small"
    return [
        "plain",
        "lookup",
        f"assistant:{small}",
        "early-exit:2",
        "head@chain:3:1:3",
        f"window:{small}",
        "itself@chain:2:1:2",
    ]


@pytest.fixture(scope="module")
def opened(folder):
    target = tiny_target(layers=4, dtype=torch.float32)
    methods = {name: Method.parse(name) for name in names_of(folder)}
    found, failures = open_methods(methods, target, word_tokenizer(), str(folder / "head"))
    assert failures == {}
    return target, found


def contest(opened, tokens=24):
    return Contest(opened[0], word_tokenizer(), list(opened[1]), tokens)


def test_every_method_answers_as_the_target_alone(opened, folder, tmp_path):
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    contest(opened).run(PROMPTS, [Setting()], kept)
    rows = {}
    for row in summaries(kept.answers):
        rows[row["method"], row["category"]] = row
    assert len(rows) == 7 * 3
    for name in names_of(folder):
        row = rows[name, "all"]
        assert (row["prompts"], row["identical"]) == (3, 1.0)
        assert row["tokens_s"] > 0
        if name == "plain":
            assert (row["speedup"], row["tau"]) == (1.0, None)
        else:
            assert row["tau"] >= 1
            assert row["rounds"] == sum(a.stats.rounds for a in kept.answers if a.method == name)
    assert rows["lookup", "code"]["prompts"] == 2


def test_rounds_of_transformers_own_methods_are_counted(opened, tmp_path):
    """A model that is the target itself drafts what the target says."""
    target, methods = opened
    same = next(method for method in methods if method.name.startswith("assistant"))
    itself = type(same)("itself", {"assistant_model": target})
    ids = torch.tensor([[5, 6, 7]])
    output, stats = itself.generate(target, inputs=ids, max_new_tokens=20, do_sample=False)
    assert stats.tokens >= output.shape[1] - 3
    assert sum(stats.accepted) >= sum(stats.trials) - 1  # the last round may be cut off
    assert stats.tau > 1.5
    assert "_get_candidate_generator" not in vars(target)


def test_a_method_that_fails_is_a_row_and_the_others_go_on(opened, tmp_path):
    """transformers' own assisted generation takes one row."""
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    running = contest(opened)
    running.run(PROMPTS, [Setting(batch=2)], kept)
    assert set(running.failures) >= {"lookup", "early-exit:2"}
    rows = summaries(kept.answers, running.failures)
    assert "batch_size = 1" in next(r["failure"] for r in rows if r["method"] == "lookup")
    head = next(r for r in rows if r["method"] == "head@chain:3:1:3" and r["category"] == "code")
    assert (head["prompts"], head["identical"]) == (2, 1.0)
    assert "| lookup | failed: " in table(rows)


def test_sampled_answers_are_those_of_the_target_alone(opened, tmp_path):
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    ours = [m for m in opened[1] if m.name in ("plain", "head@chain:3:1:3", "itself@chain:2:1:2")]
    contest((opened[0], ours)).run(PROMPTS, [Setting(temperature=1.0)], kept)
    assert all(answer.same == 1 for answer in kept.answers)


def test_an_interrupted_run_goes_on(opened, tmp_path, monkeypatch):
    file = tmp_path / "answers.jsonl"
    plain = [method for method in opened[1] if method.name == "plain"]
    running = contest((opened[0], plain))
    answer = running._answer
    calls = []

    def interrupted(group, setting, number):
        calls.append(group[0]["id"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer(group, setting, number)

    monkeypatch.setattr(running, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run(PROMPTS, [Setting()], KeptAnswers(file, {"a": 1}))
    kept = KeptAnswers(file, {"a": 1})
    assert len(kept.answers) == 1
    running.run(PROMPTS, [Setting()], kept)
    assert len(calls) == 4, "the first group was not answered again"
    assert KeptAnswers(file, {"a": 1}).answers == kept.answers
    with pytest.raises(ValueError, match="answers to other prompts"):
        KeptAnswers(file, {"a": 2})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lookahead", "take of plain, lookup"),
        ("assistant", "needs a model behind a colon"),
        ("head:x", "takes no model"),
        ("lookup@chain:3:1:3", "trees are drafted by"),
        ("early-exit:last", "give the layer's number"),
        ("head@chain", "write policy:depth"),
    ],
)
def test_a_name_that_is_none_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        Method.parse(name)


def test_what_does_not_fit_the_target_is_a_reason(opened, folder):
    methods = {name: Method.parse(name) for name in ("early-exit:4", "head", "window:/nowhere")}
    found, failures = open_methods(methods, opened[0], word_tokenizer())
    assert found == []
    assert "take 1 to 3" in failures["early-exit:4"]
    assert "give one by --head" in failures["head"]
    assert "/nowhere" in failures["window:/nowhere"]


def test_the_command_writes_what_it_prints(folder, tmp_path, monkeypatch, capsys):
    row = {"turns": ["w5 w6"], "category": "mine"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    flags = (
        f"--target {folder / 'target'} --head {folder / 'head'} --categories asked.jsonl "
        "--dtype float32 --max-new-tokens 12 --methods lookup head@chain:3:1:3 early-exit:9 "
        "--temperatures 0 1 --out out"
    )
    for _ in range(2):  # the second time from what was kept
        assert cli.main(["evaluate", *flags.split()]) == 0
        printed = capsys.readouterr().out
        assert "| head@chain:3:1:3 | 0 | 1 | mine | 1 |" in printed
        assert "| early-exit:9 | failed: " in printed
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert metrics["schema"] == 2
        assert metrics["asked"]["machine"]["dtype"] == "float32"
        measured = [row for row in metrics["rows"] if "failure" not in row]
        assert {row["temperature"] for row in measured} == {0.0, 1.0}
        assert all(math.isfinite(row["tokens_s"]) for row in measured)
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 1 + 2
