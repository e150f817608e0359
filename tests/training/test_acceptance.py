"""At every evaluation the head really generates: checkpoints and runs go by what is accepted."""

import os
import sqlite3
from pathlib import Path

import pytest
import torch
from tiny import tiny_head
from training_checks import evaluations
from transformers import EarlyStoppingCallback

from eagle_hf import Eagle3Trainer
from eagle_hf.training import clock as clock_module
from eagle_hf.training import trainer as trainer_module
from eagle_hf.training.acceptance import held_out_prompts, measure_acceptance

EVALUATING = dict(eval_strategy="steps", eval_steps=2, eval_prompts=4, eval_new_tokens=12)
CHOOSING = dict(
    save_strategy="steps",
    save_steps=2,
    load_best_model_at_end=True,
    metric_for_best_model="eval_tau",
)


def test_prompts_are_spread_evenly_over_the_examples(examples):
    prompts = held_out_prompts(examples, 3)
    assert prompts == [examples[i]["input_ids"][:4] for i in (0, 6, 13)]


def test_tau_is_what_generate_accepts(target, head, examples):
    prompts = held_out_prompts(examples, 3)
    measured = measure_acceptance(target, head, prompts, max_new_tokens=12)
    rounds = 0
    tokens = 0
    for prompt in prompts:
        target.generate(
            torch.tensor([prompt]), assistant_model=head, max_new_tokens=12, do_sample=False
        )
        rounds += head.last_run.rounds
        tokens += head.last_run.tokens
    assert measured["tau"] == pytest.approx(tokens / rounds)
    assert measured["tau"] >= 1


def test_alpha_is_measured_for_every_depth(target, head, examples):
    measured = measure_acceptance(target, head, held_out_prompts(examples, 3), max_new_tokens=12)
    depths = {f"alpha_{depth}" for depth in range(1, len(measured))}
    assert set(measured) == {"tau"} | depths
    assert len(measured) > 1


def test_every_evaluation_logs_tau_and_alpha(target, head, examples, trained, tmp_path):
    held_out = examples[:4]
    trainer = trained(target, head, examples[4:], tmp_path, eval_dataset=held_out, **EVALUATING)
    logs = evaluations(trainer)
    assert len(logs) == 3
    for log in logs:
        assert log["eval_tau"] >= 1
        assert 0 <= log["eval_alpha_1"] <= 1
    again = measure_acceptance(target, head, held_out_prompts(held_out, 4), 12)
    assert logs[-1]["eval_tau"] == again["tau"]


def test_each_of_several_sets_has_its_own_tau(target, head, examples, trained, tmp_path):
    held_out = {"a": examples[:3], "b": examples[3:6]}
    trainer = trained(target, head, examples, tmp_path, eval_dataset=held_out, **EVALUATING)
    names = set().union(*trainer.state.log_history)
    assert {"eval_a_tau", "eval_b_tau", "eval_a_alpha_1", "eval_b_alpha_1"} <= names


class DrawsANumber(torch.nn.Module):
    """Changes the random state whenever it runs."""

    def forward(self, states):
        torch.rand(1)
        return states


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_mode_and_random_state_alone(target, head, training):
    norm = target.model.norm
    target.model.norm = torch.nn.Sequential(norm, DrawsANumber())
    try:
        head.train(training)
        before = torch.get_rng_state()
        measure_acceptance(target, head, [[5, 6, 7]], 6)
        assert head.training is training
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        target.model.norm = norm


def test_examples_without_a_prompt_are_left_out():
    whole = {"input_ids": [5, 6, 7], "loss_mask": [1, 1, 1]}
    assert held_out_prompts([whole, {"input_ids": [5, 6, 7], "loss_mask": [0, 1, 1]}], 2) == [[5]]
    with pytest.raises(ValueError, match="eval_prompts=0"):
        held_out_prompts([whole], 1)


def test_measuring_changes_no_weight(target, examples, trained, tmp_path):
    runs = []
    for count in (0, 4):
        settings = EVALUATING | {"eval_prompts": count}
        head = tiny_head(target)
        runs.append(
            trained(target, head, examples, tmp_path, eval_dataset=examples[:4], **settings)
        )
    unmeasured, measured = runs
    pairs = zip(unmeasured.model.parameters(), measured.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert "eval_tau" not in evaluations(unmeasured)[0]


class StepClock:
    """Says that every step takes a tenth of a second, and measuring as long as it is told."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.1
        return self.now


def test_measuring_is_off_the_training_clock(
    target, head, examples, trained, tmp_path, monkeypatch
):
    """1.2 seconds of training are twelve steps, however long their two evaluations take."""
    clock = StepClock()

    def measure_slowly(*_):
        clock.now += 1.5
        return {"tau": 1.0}

    monkeypatch.setattr(clock_module, "time", clock)
    monkeypatch.setattr(trainer_module, "measure_acceptance", measure_slowly)
    trainer = trained(
        target,
        head,
        examples,
        tmp_path,
        eval_dataset=examples[:4],
        max_minutes=1.15 / 60,
        max_steps=10_000,
        **EVALUATING | {"eval_steps": 5},
    )
    assert trainer.state.global_step == 12
    assert len(evaluations(trainer)) == 2


@pytest.fixture
def scripted_tau(monkeypatch):
    """eval_tau goes 1.2, 1.5, 1.4, 1.3, ... whatever the head does."""
    values = iter([1.2, 1.5, 1.4, 1.3, 1.2, 1.1])

    def next_acceptance(*_):
        return {"tau": next(values), "alpha_1": 0.5}

    monkeypatch.setattr(trainer_module, "measure_acceptance", next_acceptance)


def test_the_best_checkpoint_is_the_one_of_the_best_tau(
    target, head, examples, trained, tmp_path, scripted_tau
):
    settings = EVALUATING | CHOOSING
    trainer = trained(target, head, examples, tmp_path, eval_dataset=examples[:4], **settings)
    assert trainer.state.best_metric == 1.5
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")


def test_a_run_stops_when_tau_no_longer_grows(
    target, head, examples, arguments, tmp_path, scripted_tau
):
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=arguments(tmp_path, **EVALUATING, **CHOOSING, max_steps=50),
        train_dataset=examples,
        eval_dataset=examples[:4],
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    assert trainer.state.global_step == 8


def test_tensorboard_shows_tau(target, head, examples, trained, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = EVALUATING | {"report_to": ["tensorboard"]}
    trained(target, head, examples, tmp_path, eval_dataset=examples[:4], **settings)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    tags = EventAccumulator(str(events.parent)).Reload().Tags()["scalars"]
    assert {"eval/tau", "eval/alpha_1", "train/loss", "train/acc_0"} <= set(tags)


def test_trackio_shows_tau(target, head, examples, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = EVALUATING | {"report_to": ["trackio"], "project": "heads"}
    trained(target, head, examples, tmp_path / "run", eval_dataset=examples[:4], **settings)
    logged = []
    for database in Path(os.environ["TRACKIO_DIR"]).rglob("*.db"):
        with sqlite3.connect(database) as connection:
            logged += connection.execute("select metrics from metrics").fetchall()
    assert any("eval/tau" in str(metrics) for (metrics,) in logged)
