"""The quickstart's steps on a tiny target: done once, gone on with, honest at the end."""

import json

import pytest
from transformers import TrainerCallback

from eagle_hf import quickstart as module
from eagle_hf.quickstart import quickstart
from tiny import tiny_head, tiny_target, word_tokenizer


@pytest.fixture
def small(monkeypatch, tmp_path):
    """SmolLM2 replaced by a tiny target, the prompts by words; counts how often each step really works."""
    calls = {"magpie": 0, "train": 0}

    def load(name, dtype):
        return tiny_target(dtype=dtype), word_tokenizer()

    def prompts(target, tokenizer, count, **kwargs):
        calls["magpie"] += 1
        return [{"id": f"m{i}", "turns": [f"w{5 + i} w9"], "category": "chat", "source": "magpie"} for i in range(count)]

    def suite(per_category):
        return [{"id": f"{c}{i}", "turns": [f"w{8 + i} w7"], "category": c} for c in ("chat", "code") for i in range(per_category)]

    real_train = module.train_head

    def train(*args):
        calls["train"] += 1
        return real_train(*args)

    for name, value in dict(load_target=load, magpie_prompts=prompts, load_suite=suite, train_head=train, REFERENCE=tmp_path / "shipped", DRAFT_VOCAB_SIZE=24, RESPONSE_TOKENS=16).items():
        monkeypatch.setattr(module, name, value)
    return calls


def test_quickstart_trains_measures_and_says_so(small, tmp_path, capsys):
    quickstart(tmp_path, minutes=0.05, prompts=9)
    screen = capsys.readouterr().out
    assert "not in this installation" in screen
    for line in ("tau: ", "speed: ", "outputs identical: yes (4 answers in float32)", f"the head: {tmp_path / 'head'}"):
        assert line in screen
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["results"]["all"]["prompts"] == 8
    quickstart(tmp_path, minutes=0.05, prompts=9)
    assert small == {"magpie": 1, "train": 1} and "earlier run" in capsys.readouterr().out


def test_the_head_of_the_project_comes_first_and_alone_where_asked(small, tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no head in .*shipped"):
        quickstart(tmp_path / "run", train=False)
    tiny_head(tiny_target()).save_pretrained(tmp_path / "shipped")
    quickstart(tmp_path / "run", train=False)
    screen = capsys.readouterr().out
    assert f"the head: {tmp_path / 'shipped'}" in screen and "outputs identical: yes (2 answers in float32)" in screen
    assert small == {"magpie": 0, "train": 0} and (tmp_path / "run" / "reference" / "metrics.json").exists()
    quickstart(tmp_path / "run", minutes=0.02, prompts=9)
    screen = capsys.readouterr().out
    assert screen.index(f"the head: {tmp_path / 'shipped'}") < screen.index(f"the head: {tmp_path / 'run' / 'head'}")


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
    module.Eagle3Trainer.train = lambda trainer, **kwargs: (resumed.append(kwargs), real_train(trainer, **kwargs))
    try:
        quickstart(tmp_path, minutes=0.1, prompts=9)
    finally:
        module.Eagle3Trainer.train = real_train
    assert resumed == [{"resume_from_checkpoint": checkpoint}] and small["magpie"] == 1
    assert answers.read_bytes() == answered and "outputs identical" in capsys.readouterr().out


def test_differences_are_not_hidden(capsys):
    from types import SimpleNamespace

    from eagle_hf.evaluation.equality import Difference
    from eagle_hf.evaluation.offline import Summary

    summary = Summary(1, 1.5, (1.4, 1.6), [0.4], 20.0, 18.0, 0.9, 0.0, 0, 5.0, 0.05)
    answer = SimpleNamespace(difference=Difference(7, 0.3), prompt={"id": "p"})
    module.last_screen("head", summary, summary, [answer], 60)
    screen = capsys.readouterr().out
    assert "outputs identical: no" in screen and "p parts at token 7, top-2 gap 3.0e-01" in screen
    assert "speculation does not pay in bf16" in screen and "does not pay in float32" in screen


@pytest.mark.parametrize("bad", [dict(minutes=0), dict(prompts=2)])
def test_impossible_budgets_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="must be positive"):
        quickstart(tmp_path, **bad)
