"""What cannot be drafted is said, and training goes on without the head."""

import logging
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import tiny_head, tiny_target, word_tokenizer
from training_runs import COMMON, grpo, logged, policy
from transformers import TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from eagle_hf import TreeConfig
from eagle_hf.decoding.attached import attached
from eagle_hf.rollouts import SpeculativeRollouts
from eagle_hf.rollouts.callback import SILENT_STEPS

TREE = TreeConfig(depth=2, top_k=2, nodes=4)


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is logged; what is said once is said once a test."""
    from eagle_hf.rollouts import callback, drafting

    for module in (callback, drafting):
        monkeypatch.setattr(module.logger, "warning_once", module.logger.warning)
        monkeypatch.setattr(module.logger, "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def trained(folder: Any, rollouts: SpeculativeRollouts, model: Any = None, **settings: Any) -> Any:
    """A trainer after some steps."""
    trainer = grpo(folder, model or policy(), [rollouts], **(dict(steps=2) | settings))
    trainer.train()
    return trainer


def test_a_head_for_another_vocabulary(tmp_path, said):
    head = tiny_head(tiny_target(vocab_size=37))
    trainer = trained(tmp_path, SpeculativeRollouts(head))
    assert trainer.state.global_step == 2
    assert "does nothing" in said.text and "vocab" in said.text
    assert not logged(trainer, "rollout/drafted")


def test_a_policy_whose_embeddings_were_resized(tmp_path, said):
    head = tiny_head(policy())
    model = policy()
    model.resize_token_embeddings(35)
    trainer = trained(tmp_path, SpeculativeRollouts(head), model)
    assert trainer.state.global_step == 2
    assert "does nothing" in said.text and "35" in said.text


def test_a_trainer_that_generates_by_vllm(tmp_path, said):
    model = policy()
    trainer = grpo(tmp_path, model, [])
    rollouts = SpeculativeRollouts(tiny_head(model))
    trainer.args.use_vllm = True
    rollouts.on_train_begin(trainer.args, TrainerState(), TrainerControl(), model=model)
    assert "use_vllm=True" in said.text and "use_vllm=False" in said.text
    assert attached(model) is None


def test_a_trainer_without_rollouts(tmp_path, said):
    model = policy(dtype=torch.float32)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**(COMMON | dict(output_dir=str(tmp_path), max_steps=SILENT_STEPS + 2))),
        train_dataset=Dataset.from_list([{"text": "w5 w6 w7 w8"}] * 8),
        processing_class=word_tokenizer(),
        callbacks=[SpeculativeRollouts(tiny_head(model))],
    )
    trainer.train()
    assert said.text.count("saw no model.generate") == 1
    assert "SFTConfig" in said.text


def test_rollouts_of_no_round(tmp_path):
    rollouts = SpeculativeRollouts(tiny_head(policy()), tree=TREE, learn_share=0.9)
    trainer = trained(tmp_path, rollouts, max_completion_length=1, steps=3)
    assert trainer.state.global_step == 3


def test_a_policy_of_nan_fails_as_it_does_alone(tmp_path):
    model = policy()
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(float("nan"))
    head = tiny_head(policy())
    before = head.lm_head.weight.clone()
    with pytest.raises(RuntimeError, match="nan") as alone:
        grpo(tmp_path / "plain", model, [], steps=2).train()
    with pytest.raises(RuntimeError, match="nan") as drafted:
        trained(tmp_path / "drafted", SpeculativeRollouts(head, tree=TREE), model)
    assert str(alone.value) == str(drafted.value)
    assert head.lm_head.weight.equal(before)


def test_a_call_that_cannot_be_drafted_draws_as_plain_generate_does(tmp_path, said):
    static = dict(steps=2, cache_implementation="static")  # a cache that cannot drop drafts
    plain = grpo(tmp_path / "plain", policy(), [], **static)
    plain.train()
    rollouts = SpeculativeRollouts(tiny_head(policy()), tree=TREE, learn_every=0)
    trainer = grpo(tmp_path / "static", policy(), [rollouts], **static)
    trainer.train()
    assert "without the head" in said.text and "cache_implementation='static'" in said.text
    assert logged(trainer, "reward") == logged(plain, "reward")
    assert logged(trainer, "rollout/drafted") == [0.0, 0.0]


def test_a_head_that_diverges_is_rolled_back(tmp_path, said):
    head = tiny_head(policy())
    before = head.lm_head.weight.clone()
    rollouts = SpeculativeRollouts(
        head, tree=TREE, learning_rate=1e200, learn_share=0.9, measure_every=0
    )
    trainer = trained(tmp_path, rollouts, steps=6)
    assert trainer.state.global_step == 6
    assert "not finite" in said.text
    assert torch.isfinite(head.lm_head.weight).all()
    assert head.lm_head.weight.equal(before)


def test_two_callbacks_one_after_the_other(tmp_path, said):
    model = policy()
    for turn in range(2):
        rollouts = SpeculativeRollouts(tiny_head(policy()), tree=TREE)
        trainer = trained(tmp_path / str(turn), rollouts, model)
        assert logged(trainer, "rollout/drafted")[0] == 1.0
        assert attached(model) is None
    assert "replaced" not in said.text


@pytest.mark.parametrize(
    "settings", [{"learn_every": -1}, {"learn_share": 1.0}, {"measure_every": 0.5}], ids=str
)
def test_numbers_that_make_no_sense(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SpeculativeRollouts(tiny_head(policy()), **settings)
