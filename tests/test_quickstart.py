"""The quickstart's steps on a tiny target: done once, gone on with, honest at the end."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer
from transformers import TrainerCallback

from eagle_hf import Eagle3DraftHead, Eagle3Trainer
from eagle_hf.evaluation import Difference, Summary
from eagle_hf.planning.cost import CostTable
from eagle_hf.quickstart import budget, making, quickstart, screens, story
from eagle_hf.quickstart import targets as opening
from eagle_hf.training import last_checkpoint


def load_tiny(name, dtype, device):
    return tiny_target(dtype=dtype), word_tokenizer()


def choose_float32(device, work):
    return torch.float32


def tiny_suite(names=None, per_category=None, leave_out=0):
    prompts = []
    for category in ("chat", "code"):
        for number in range(per_category):
            turn = f"w{8 + number} w7"
            prompts.append({"id": f"{category}{number}", "turns": [turn], "category": category})
    return prompts


@pytest.fixture
def small(monkeypatch, tmp_path):
    """SmolLM2 replaced by a tiny target, the prompts by words; counts how often steps work."""
    calls = {"magpie": 0, "train": 0}
    real_train = making.train_head

    def write_prompts(target, tokenizer, count, **kwargs):
        calls["magpie"] += 1
        prompts = []
        for number in range(count):
            turn = f"w{5 + number} w9"
            prompts.append(
                {"id": f"m{number}", "turns": [turn], "category": "chat", "source": "magpie"}
            )
        return prompts

    def train(*args):
        calls["train"] += 1
        return real_train(*args)

    monkeypatch.setattr(opening, "load_target", load_tiny)
    monkeypatch.setattr(opening, "choose_dtype", choose_float32)
    for module in (budget, making, screens):
        monkeypatch.setattr(module, "load_suite", tiny_suite)
    for module in (budget, making):
        monkeypatch.setattr(module, "RESPONSE_TOKENS", 16)
    monkeypatch.setattr("eagle_hf.pipeline.prompts.magpie_prompts", write_prompts)
    monkeypatch.setattr(making, "train_head", train)
    monkeypatch.setattr(making, "DRAFT_VOCAB_SIZE", 24)
    monkeypatch.setattr(story, "REFERENCE", tmp_path / "shipped")
    return calls


def test_quickstart_trains_measures_and_says_so(small, tmp_path, capsys):
    quickstart(tmp_path, minutes=0.05, prompts=9)
    screen = capsys.readouterr().out
    for line in (
        "not in this installation",
        "tau: ",
        "speed: ",
        "outputs identical: yes (8 answers in float32)",
        f"the head: {tmp_path / 'head'}",
        "trained on 9 of 9 prompts for 0.05 minutes",
    ):
        assert line in screen
    widths = [len(line) for line in screen.replace(str(tmp_path), "quickstart").splitlines()]
    assert max(widths) <= 110
    saved = Eagle3DraftHead.from_pretrained(tmp_path / "head")
    assert saved.acceptance is not None
    assert saved.dtype == torch.bfloat16
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["settings"][0]["results"]["all"]["prompts"] == 8


def test_a_finished_quickstart_trains_no_second_time(small, tmp_path, capsys):
    quickstart(tmp_path, minutes=0.05, prompts=9)
    capsys.readouterr()
    quickstart(tmp_path, minutes=0.05, prompts=9)
    assert small == {"magpie": 1, "train": 1}
    assert "earlier run" in capsys.readouterr().out


def test_without_the_projects_head_there_is_nothing_to_show_alone(small, tmp_path):
    with pytest.raises(ValueError, match="there is no head in .*shipped"):
        quickstart(tmp_path / "run", train=False)


def test_the_head_of_the_project_comes_first_and_alone_where_asked(small, tmp_path, capsys):
    tiny_head(tiny_target()).save_pretrained(tmp_path / "shipped")
    quickstart(tmp_path / "run", train=False)
    screen = capsys.readouterr().out
    assert f"the head: {tmp_path / 'shipped'}" in screen
    assert "outputs identical: yes (2 answers in float32)" in screen
    assert small == {"magpie": 0, "train": 0}
    assert (tmp_path / "run" / "reference" / "metrics.json").exists()
    quickstart(tmp_path / "run", minutes=0.02, prompts=9)
    screen = capsys.readouterr().out
    own = screen.index(f"the head: {tmp_path / 'shipped'}")
    trained = screen.index(f"the head: {tmp_path / 'run' / 'head'}")
    assert own < trained


class Interrupted(TrainerCallback):
    """Ctrl-C at the first checkpoint."""

    def on_save(self, *args, **kwargs):
        raise KeyboardInterrupt


def test_an_interrupted_quickstart_goes_on_with_what_is_done(small, tmp_path, monkeypatch, capsys):
    real_train = Eagle3Trainer.train
    answers = tmp_path / "data" / "answers" / "conversations.jsonl"
    resumed = []

    def interrupted(trainer, **kwargs):
        trainer.args.save_steps = trainer.state.save_steps = 5
        trainer.add_callback(Interrupted())
        return real_train(trainer, **kwargs)

    def remembered(trainer, **kwargs):
        resumed.append(kwargs)
        return real_train(trainer, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Eagle3Trainer, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quickstart(tmp_path, minutes=0.1, prompts=9)
    answered = answers.read_bytes()
    checkpoint = last_checkpoint(tmp_path / "checkpoints")
    assert checkpoint.endswith("checkpoint-5")
    assert not (tmp_path / "head").exists()

    monkeypatch.setattr(Eagle3Trainer, "train", remembered)
    quickstart(tmp_path, minutes=0.1, prompts=9)
    assert resumed == [{"resume_from_checkpoint": checkpoint}]
    assert small["magpie"] == 1
    assert answers.read_bytes() == answered
    assert "outputs identical" in capsys.readouterr().out


def summary(speedup: float) -> Summary:
    return Summary(
        prompts=1,
        tau=1.5,
        tau_interval=(1.4, 1.6),
        alpha=[0.4],
        plain_tokens_per_second=20.0,
        fast_tokens_per_second=20.0 * speedup,
        speedup=speedup,
        identical=0.0,
        ties=0,
        overhead_ms=5.0,
        overhead_share=0.05,
    )


def show_last(target, head, monkeypatch, capsys, speedup, difference=None):
    """The last screen of a head with one answer."""

    def one_summary(answers):
        return {"all": summary(speedup)}

    monkeypatch.setattr(screens, "by_category", one_summary)
    answer = SimpleNamespace(difference=difference, prompt={"id": "p"})
    screens.last_screen("head", target, head, summary(speedup), [answer], 60)
    return capsys.readouterr().out


@pytest.fixture
def slow_machine(monkeypatch):
    """Reading 8 tokens costs 4 times one."""
    table = CostTable((1,), (64,), (1, 8), (1,), (((0.05, 0.2),),), (((0.003,),),), (0.003,), {})

    def machine_costs(target, head):
        return table

    monkeypatch.setattr(screens, "machine_costs", machine_costs)


def test_differences_are_not_hidden(target, head, slow_machine, monkeypatch, capsys):
    screen = show_last(target, head, monkeypatch, capsys, 0.9, Difference(7, 0.3))
    assert "outputs identical: no" in screen
    assert "p parts at token 7, top-2 gap 3.0e-01" in screen


def test_where_it_does_not_pay_one_sentence_says_why_and_what_would(
    target, head, slow_machine, monkeypatch, capsys
):
    screen = " ".join(show_last(target, head, monkeypatch, capsys, 1.0).split())
    assert "reading 8 tokens costs 4.0 times one, and a round brings 1.50" in screen
    assert "would with a CPU that computes in bfloat16 natively" in screen


def test_where_it_pays_nothing_is_explained(target, head, slow_machine, monkeypatch, capsys):
    assert "hardly pays" not in show_last(target, head, monkeypatch, capsys, 1.4)


def set_speed(monkeypatch, seconds_a_prompt, look_seconds):
    """The machine's speed, as if it had been measured."""
    monkeypatch.setattr(budget, "seconds_a_prompt", lambda *args: seconds_a_prompt)
    monkeypatch.setattr(budget, "look_seconds", lambda targets: look_seconds)


def test_a_slow_machine_answers_fewer_prompts_and_says_so(small, tmp_path, monkeypatch, capsys):
    set_speed(monkeypatch, seconds_a_prompt=5.0, look_seconds=40.0)
    monkeypatch.setattr(budget, "LEAST_PROMPTS", 9)
    quickstart(tmp_path, minutes=0.02, prompts=300)
    screen = capsys.readouterr().out
    count = json.loads((tmp_path / "prompts.json").read_text())["count"]
    # (14 minutes less 5 of training and 40 seconds) / 5 seconds, and what the show took
    assert 90 <= count <= 104
    longer = "300 would take this machine longer than a quarter of an hour"
    assert f"{count} user turns ({longer})" in screen
    assert f"trained on {count} of 300 prompts" in screen


def test_the_count_of_an_interrupted_run_is_kept(small, tmp_path, monkeypatch):
    targets = opening.Targets()
    kept = tmp_path / "prompts.json"
    counts = []
    for seconds in (2.0, 9.0):
        set_speed(monkeypatch, seconds_a_prompt=seconds, look_seconds=0.0)
        counts.append(budget.affordable_prompts(kept, targets, 5, 480, time.perf_counter()))
    assert counts[0] == counts[1] < 480
    assert budget.affordable_prompts(kept, targets, 5, 90, time.perf_counter()) < 90


@pytest.mark.parametrize("bad", [dict(minutes=0), dict(prompts=2)])
def test_impossible_budgets_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="must be positive"):
        quickstart(tmp_path, **bad)
