"""Methods side by side: every one is lossless, counted, kept, and may fail alone."""

import json
import math
import time

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import cli, load_target
from eagle_hf.data import load_suite
from eagle_hf.evaluation.side_by_side import (
    Contest,
    KeptAnswers,
    Method,
    Setting,
    named_methods,
    open_methods,
    overhead_of,
    summaries,
    table,
)
from eagle_hf.head.trees import TreeConfig

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
    methods = named_methods(names_of(folder))
    found, failures = open_methods(methods, target, word_tokenizer(), str(folder / "head"))
    assert failures == {}
    return target, found


def contest(opened, tokens=16, names=None):
    methods = [method for method in opened[1] if names is None or method.name in names]
    return Contest(opened[0], word_tokenizer(), methods, tokens)


def test_every_method_answers_as_the_target_alone(opened, folder, tmp_path):
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    contest(opened).run(PROMPTS, [Setting()], kept)
    rows = {}
    for row in summaries(kept):
        rows[row["method"], row["category"]] = row
    assert len(rows) == 8 * 3
    for name in ["plain", "loop", *names_of(folder)]:
        row = rows[name, "all"]
        assert (row["prompts"], row["identical"]) == (3, 1.0)
        assert row["tokens_s"] > 0
        assert set(row["by_category"]) == {"code", "chat"}
        if name in ("plain", "loop"):
            assert row["acceptance"] is None
            continue
        found = row["acceptance"]
        assert row["tau"] == found["tau_tokens"] >= 1
        assert found["tau_requests"]["low"] <= found["tau_requests"]["median"]
        assert sum(found["vllm"]["acceptance_histogram"]) == found["vllm"]["num_spec_steps"]
        assert row["tree"][0]["parent"] == -1
    assert rows["plain", "all"]["speedup"] == rows["loop", "all"]["over_loop"] == 1.0
    assert rows["lookup", "code"]["prompts"] == 2


def test_rounds_of_transformers_own_methods_are_counted(opened):
    """A model that is the target itself drafts what the target says."""
    target, methods = opened
    same = next(method for method in methods if method.name.startswith("assistant"))
    itself = type(same)("itself", {"assistant_model": target})
    ids = torch.tensor([[5, 6, 7]])
    output, stats = itself.generate(target, inputs=ids, max_new_tokens=20, do_sample=False)
    assert stats.tokens >= output.shape[1] - 3
    assert sum(stats.accepted) >= sum(stats.trials) - 1  # the last round may be cut off
    assert stats.drafted >= sum(stats.accepted)
    assert stats.tau > 1.5
    assert "_get_candidate_generator" not in vars(target)


def test_a_method_that_fails_in_one_setting_keeps_its_rows_of_the_others(opened, tmp_path):
    """transformers' own assisted generation takes one row."""
    file = tmp_path / "answers.jsonl"
    kept = KeptAnswers(file, {})
    running = contest(opened, names=("plain", "lookup", "head@chain:3:1:3"))
    settings = [Setting(batch=2), Setting(batch=1)]
    running.run(PROMPTS, settings, kept)
    rows = {}
    for row in summaries(kept):
        rows[row["method"], row["batch"], row["category"]] = row
    assert "batch_size = 1" in rows["lookup", 2, "all"]["failed"]
    assert rows["lookup", 1, "all"]["identical"] == 1.0
    assert ("lookup", 2, "code") not in rows
    assert rows["head@chain:3:1:3", 2, "code"]["prompts"] == 2
    assert "| lookup | 0 | 2 | failed: " in table(list(rows.values()))
    before = file.read_text()
    again = KeptAnswers(file, {})
    assert again.failures == kept.failures
    running.run(PROMPTS, settings, again)
    assert file.read_text() == before, "what failed stays failed, and nothing is measured again"


def test_methods_are_compared_on_the_groups_that_both_answered(opened, tmp_path, monkeypatch):
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    running = contest(opened, names=("plain", "lookup"))
    running.run(PROMPTS[:1], [Setting()], kept)
    alone = contest(opened, names=("plain",))
    alone.run(PROMPTS, [Setting()], kept)
    row = next(r for r in summaries(kept) if (r["method"], r["category"]) == ("lookup", "all"))
    plain = next(answer for answer in kept.answers if answer.prompts == ["p0"])
    lookup = next(answer for answer in kept.answers if answer.method == "lookup")
    assert row["speedup"] == pytest.approx(lookup.speed / plain.speed)


def test_a_group_that_lacks_a_method_is_answered_by_all_again(opened, tmp_path):
    """Speeds of different moments cannot be compared."""
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    contest(opened, names=("plain",)).run(PROMPTS[:1], [Setting()], kept)
    first = kept.answers[0].seconds
    contest(opened, names=("plain", "lookup")).run(PROMPTS[:1], [Setting()], kept)
    assert len(kept.answers) == 2
    assert kept.answers[0].seconds != first


@pytest.mark.parametrize("batch", [1, 3])
def test_own_drafters_answer_batches_as_the_target_alone(opened, folder, tmp_path, batch):
    """The window and the target itself draft for several rows as for one."""
    prompts = [{"id": f"q{n}", "category": "c", "turns": [f"w{5 + n} w7"]} for n in range(3)]
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    names = ("plain", "loop", f"window:{folder / 'small'}", "itself@chain:2:1:2")
    contest(opened, names=names).run(prompts, [Setting(batch=batch)], kept)
    assert kept.failures == {}
    for row in summaries(kept):
        assert row["identical"] == 1.0
    itself = [answer.stats for answer in kept.answers if answer.method == "itself@chain:2:1:2"]
    accepted = sum(sum(stats.accepted) for stats in itself)
    assert accepted == sum(sum(stats.trials) for stats in itself), "the target agrees with itself"


def test_sampled_answers_are_those_of_the_target_alone(opened, tmp_path):
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    names = ("plain", "head@chain:3:1:3", "itself@chain:2:1:2")
    contest(opened, names=names).run(PROMPTS, [Setting(temperature=1.0)], kept)
    assert all(answer.same == 1 for answer in kept.answers)


def test_an_interrupted_run_goes_on(opened, tmp_path, monkeypatch):
    file = tmp_path / "answers.jsonl"
    running = contest(opened, names=("plain",))
    plain = running.methods[0]
    answer = type(plain).answer
    asked = []

    def interrupted(self, call):
        if call.max_new_tokens == running.max_new_tokens:
            asked.append(call.prompts[0]["id"])
            if len(asked) == 2:
                raise KeyboardInterrupt
        return answer(self, call)

    monkeypatch.setattr(type(plain), "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run(PROMPTS, [Setting()], KeptAnswers(file, {"a": 1}))
    with file.open("a") as lines:
        lines.write('[{"method": "pl')  # killed while it wrote
    kept = KeptAnswers(file, {"a": 1})
    assert len(kept.answers) == 1
    running.run(PROMPTS, [Setting()], kept)
    assert len(asked) == 4, "the first group was not answered again"
    assert KeptAnswers(file, {"a": 1}).answers == kept.answers
    with pytest.raises(ValueError, match=r"answers to other prompts.*other a"):
        KeptAnswers(file, {"a": 2})


def test_a_run_of_which_everything_is_kept_calls_nobody(opened, tmp_path, monkeypatch):
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    running = contest(opened, names=("plain",))
    running.run(PROMPTS, [Setting()], kept)

    def nobody(self, call):
        raise AssertionError("called")

    monkeypatch.setattr(type(running.methods[0]), "answer", nobody)
    running.run(PROMPTS, [Setting()], kept)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lookahead", "take of plain, loop, lookup"),
        ("assistant", "needs a model behind a colon"),
        ("head:x", "takes no model"),
        ("lookup@chain:3:1:3", "trees are drafted by"),
        ("early-exit:last", "give the layer's number"),
        ("head@chain", "write policy:depth"),
        ("server:localhost:8000", "name a server and give its address"),
    ],
)
def test_a_name_that_is_none_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        Method.parse(name)


def test_names_of_a_contest():
    tree = TreeConfig.parse("chain:3:1:3")
    assert list(named_methods(["lookup"])) == ["plain", "lookup"]
    names = list(named_methods(["head", "itself@chain:2:1:2", "lookup"], tree))
    assert names == ["plain", "loop", "head@chain:3:1:3", "itself@chain:2:1:2", "lookup"]
    servers = ["server:a=http://one@host:1", "server:a=http://two:1"]
    assert list(named_methods(servers[:1])) == ["plain", "server:a"]
    with pytest.raises(ValueError, match="two servers are called 'a'"):
        named_methods(servers)


def test_what_does_not_fit_the_target_is_a_reason(opened, folder):
    names = ("early-exit:4", "head", "window:/nowhere", "itself@adaptive:2:2:4")
    methods = {name: Method.parse(name) for name in names}
    found, failures = open_methods(methods, opened[0], word_tokenizer())
    assert found == []
    assert "take 1 to 3" in failures["early-exit:4"]
    assert "give one by --head" in failures["head"]
    assert "/nowhere" in failures["window:/nowhere"]
    assert "plan" in failures["itself@adaptive:2:2:4"]


def test_the_command_writes_what_it_prints(folder, tmp_path, monkeypatch, capsys):
    row = {"turns": ["w5 w6"], "category": "mine"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    flags = (
        f"--target {folder / 'target'} --head {folder / 'head'} --categories asked.jsonl "
        "--dtype float32 --max-new-tokens 12 --methods lookup head early-exit:9 "
        "--tree chain:3:1:3 --temperatures 0 1 --out out"
    )
    for _ in range(2):  # the second time from what was kept
        assert cli.main(["evaluate", *flags.split()]) == 0
        printed = capsys.readouterr().out
        assert "| head@chain:3:1:3 | 0 | 1 | mine | 1 |" in printed
        assert "| early-exit:9 |  |  | failed: " in printed
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert (metrics["schema"], metrics["kind"]) == (2, "methods")
        assert metrics["machine"]["dtype"] == "float32"
        assert metrics["evaluation_overhead"] > 0
        measured = [row for row in metrics["rows"] if "failed" not in row]
        assert {row["temperature"] for row in measured} == {0.0, 1.0}
        assert all(math.isfinite(row["tokens_s"]) for row in measured)
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 1 + 2
    (tmp_path / "asked.jsonl").write_text(json.dumps(row | {"turns": ["w7"]}) + "\n")
    assert cli.main(["evaluate", *flags.split()]) == 2
    assert "other prompts_fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--methods lookup --temperature 0.5", "give --temperatures 0.5"),
        ("--methods lookup --vocab-size 32", "no --head was given"),
        ("--head head --batch-sizes 2", "are settings of --methods"),
        ("--methods lookup --batch-sizes 0", "one row at least"),
        ("--methods lookup --categories nowhere", "no category or file"),
    ],
)
def test_what_would_be_ignored_is_refused(flags, message, capsys):
    assert cli.main(["evaluate", "--target", "smollm2", *flags.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_evaluation_itself_takes_less_than_a_hundredth_of_the_decoding(tmp_path):
    """On the embedded target: rendering, comparing, the entropy, and keeping."""
    target, tokenizer = load_target("smollm2", dtype="float32")
    prompts = load_suite(["chat"], per_category=1)
    methods, _ = open_methods(named_methods(["lookup"]), target, tokenizer)
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    Contest(target, tokenizer, methods, max_new_tokens=32).run(prompts, [Setting()], kept)
    decoding = sum(answer.seconds for answer in kept.answers)
    started = time.perf_counter()
    kept.add(kept.answers)
    keeping = time.perf_counter() - started
    assert overhead_of(kept.answers) + keeping / decoding < 0.01
