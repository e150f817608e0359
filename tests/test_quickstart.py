"""The quickstart's steps on a tiny target: done once, gone on with, honest at the end."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer
from transformers import TrainerCallback

from eagle_hf import quickstart as module
from eagle_hf.evaluation.equality import Difference
from eagle_hf.evaluation.offline import Summary
from eagle_hf.planning.cost import CostTable
from eagle_hf.quickstart import quickstart


@pytest.fixture
def small(monkeypatch, tmp_path):
    """SmolLM2 replaced by a tiny target, the prompts by words; counts how often each step really works."""
    calls = {"magpie": 0, "train": 0}

    def load(name, dtype, device):
        return tiny_target(dtype=dtype), word_tokenizer()

    def prompts(target, tokenizer, count, **kwargs):
        calls["magpie"] += 1
        return [
            {"id": f"m{i}", "turns": [f"w{5 + i} w9"], "category": "chat", "source": "magpie"}
            for i in range(count)
        ]

    def suite(names=None, per_category=None, leave_out=0):
        return [
            {"id": f"{c}{i}", "turns": [f"w{8 + i} w7"], "category": c}
            for c in ("chat", "code")
            for i in range(per_category)
        ]

    real_train = module.train_head

    def train(*args):
        calls["train"] += 1
        return real_train(*args)

    def dtype(device, work):
        return torch.float32

    for name, value in dict(
        load_target=load,
        magpie_prompts=prompts,
        load_suite=suite,
        train_head=train,
        REFERENCE=tmp_path / "shipped",
        choose_dtype=dtype,
        DRAFT_VOCAB_SIZE=24,
        RESPONSE_TOKENS=16,
    ).items():
        monkeypatch.setattr(module, name, value)
    return calls


def test_quickstart_trains_measures_and_says_so(small, tmp_path, capsys):
    quickstart(tmp_path, minutes=0.05, prompts=9)
    screen = capsys.readouterr().out
    assert "not in this installation" in screen
    last = f"the head: {tmp_path / 'head'}"
    for line in (
        "tau: ",
        "speed: ",
        "outputs identical: yes (8 answers in float32)",
        last,
        "trained on 9 of 9 prompts for 0.05 minutes",
    ):
        assert line in screen
    assert max(map(len, screen.replace(str(tmp_path), "quickstart").splitlines())) <= 110
    saved = module.Eagle3DraftHead.from_pretrained(tmp_path / "head")
    assert saved.acceptance is not None
    assert saved.dtype == torch.bfloat16
    assert (
        json.loads((tmp_path / "report" / "metrics.json").read_text())["results"]["all"]["prompts"]
        == 8
    )
    quickstart(tmp_path, minutes=0.05, prompts=9)
    assert small == {"magpie": 1, "train": 1} and "earlier run" in capsys.readouterr().out


def test_the_head_of_the_project_comes_first_and_alone_where_asked(small, tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no head in .*shipped"):
        quickstart(tmp_path / "run", train=False)
    tiny_head(tiny_target()).save_pretrained(tmp_path / "shipped")
    quickstart(tmp_path / "run", train=False)
    screen = capsys.readouterr().out
    assert (
        f"the head: {tmp_path / 'shipped'}" in screen
        and "outputs identical: yes (2 answers in float32)" in screen
    )
    assert (
        small == {"magpie": 0, "train": 0}
        and (tmp_path / "run" / "reference" / "metrics.json").exists()
    )
    quickstart(tmp_path / "run", minutes=0.02, prompts=9)
    screen = capsys.readouterr().out
    assert screen.index(f"the head: {tmp_path / 'shipped'}") < screen.index(
        f"the head: {tmp_path / 'run' / 'head'}"
    )


def test_an_interrupted_quickstart_goes_on_with_what_is_done(small, tmp_path, capsys):
    real_train, answers = module.Eagle3Trainer.train, tmp_path / "responses" / "conversations.jsonl"

    class Interrupted(TrainerCallback):
        def on_save(self, *args, **kwargs):
            raise KeyboardInterrupt

    def interrupted(trainer, **kwargs):
        trainer.args.save_steps = trainer.state.save_steps = 5
        trainer.add_callback(Interrupted())
        return real_train(trainer, **kwargs)

    module.Eagle3Trainer.train = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            quickstart(tmp_path, minutes=0.1, prompts=9)
    finally:
        module.Eagle3Trainer.train = real_train
    answered, checkpoint = answers.read_bytes(), module.last_checkpoint(tmp_path / "checkpoints")
    assert checkpoint.endswith("checkpoint-5") and not (tmp_path / "head").exists()
    resumed = []
    module.Eagle3Trainer.train = lambda trainer, **kwargs: (
        resumed.append(kwargs),
        real_train(trainer, **kwargs),
    )
    try:
        quickstart(tmp_path, minutes=0.1, prompts=9)
    finally:
        module.Eagle3Trainer.train = real_train
    assert resumed == [{"resume_from_checkpoint": checkpoint}] and small["magpie"] == 1
    assert answers.read_bytes() == answered and "outputs identical" in capsys.readouterr().out


def summary(speedup: float) -> Summary:
    return Summary(1, 1.5, (1.4, 1.6), [0.4], 20.0, 20.0 * speedup, speedup, 0.0, 0, 5.0, 0.05)


@pytest.fixture
def slow_machine(monkeypatch):
    """Reading 8 tokens costs 4 times one."""
    table = CostTable((1,), (64,), (1, 8), (1,), (((0.05, 0.2),),), (((0.003,),),), (0.003,), {})
    monkeypatch.setattr(module.automatic, "costs", lambda target, head, rows: table)


def test_differences_are_not_hidden(target, head, slow_machine, monkeypatch, capsys):
    monkeypatch.setattr(module, "by_category", lambda answers: {"all": summary(0.9)})
    answer = SimpleNamespace(difference=Difference(7, 0.3), prompt={"id": "p"})
    module.last_screen("head", target, head, summary(0.9), [answer], 60)
    screen = capsys.readouterr().out
    assert "outputs identical: no" in screen
    assert "p parts at token 7, top-2 gap 3.0e-01" in screen


def test_where_it_does_not_pay_one_sentence_says_why_and_what_would(
    target, head, slow_machine, monkeypatch, capsys
):
    monkeypatch.setattr(module, "by_category", lambda answers: {"all": summary(1.0)})
    answer = SimpleNamespace(difference=None, prompt={"id": "p"})
    module.last_screen("head", target, head, summary(1.0), [answer], 60)
    screen = " ".join(capsys.readouterr().out.split())
    assert "reading 8 tokens costs 4.0 times one, and a round brings 1.50" in screen
    assert "would with a CPU that computes in bfloat16 natively" in screen
    module.last_screen("head", target, head, summary(1.4), [answer], 60)
    assert "hardly pays" not in capsys.readouterr().out


def test_a_slow_machine_answers_fewer_prompts_and_says_so(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "seconds_a_prompt", lambda target, tokenizer, ids: 5.0)
    monkeypatch.setattr(module, "look_seconds", lambda targets: 40.0)
    monkeypatch.setattr(module, "LEAST_PROMPTS", 9)
    quickstart(tmp_path, minutes=0.02, prompts=300)
    screen = capsys.readouterr().out
    count = json.loads((tmp_path / "prompts.json").read_text())["count"]
    assert (
        90 <= count <= 104
    )  # (14 minutes less 5 of training and 40 seconds) / 5 seconds, and what the show took
    assert (
        f"{count} user turns (300 would take this machine longer than a quarter of an hour)"
        in screen
    )
    assert f"trained on {count} of 300 prompts" in screen


def test_the_count_of_an_interrupted_run_is_kept(small, tmp_path, monkeypatch):
    targets, kept = module.Targets(), tmp_path / "prompts.json"
    monkeypatch.setattr(module, "look_seconds", lambda targets: 0.0)
    counts = []
    for seconds in (2.0, 9.0):
        monkeypatch.setattr(
            module, "seconds_a_prompt", lambda target, tokenizer, ids, seconds=seconds: seconds
        )
        counts.append(module.affordable_prompts(kept, targets, 5, 480, time.perf_counter()))
    assert counts[0] == counts[1] < 480
    assert module.affordable_prompts(kept, targets, 5, 90, time.perf_counter()) < 90


@pytest.mark.parametrize("bad", [dict(minutes=0), dict(prompts=2)])
def test_impossible_budgets_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="must be positive"):
        quickstart(tmp_path, **bad)
