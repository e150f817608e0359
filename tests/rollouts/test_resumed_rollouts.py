"""The head lies in the trainer's checkpoints, and a resumed run goes on with it."""

import shutil

import torch
from tiny import tiny_head
from training_runs import grpo, policy, weights_of

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.rollouts import SpeculativeRollouts
from eagle_hf.rollouts.learner import Turn

SAVING = dict(steps=6, save_strategy="steps", save_steps=3)


def following() -> SpeculativeRollouts:
    """A callback whose head learns at every step, whatever the clock says."""
    rollouts = SpeculativeRollouts(
        tiny_head(policy()),
        tree=TreeConfig(depth=2, top_k=2, nodes=4),
        learning_rate=1e-3,
        measure_every=0,
        same_seed=True,
    )
    rollouts._credit = 1e9
    return rollouts


def test_a_resumed_head_is_that_of_an_uninterrupted_run(tmp_path):
    whole = following()
    grpo(tmp_path / "whole", policy(), [whole], **SAVING).train()

    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "again" / "checkpoint-3")
    resumed = following()
    trainer = grpo(tmp_path / "again", policy(), [resumed], **SAVING)
    trainer.train(resume_from_checkpoint=str(tmp_path / "again" / "checkpoint-3"))
    assert not tiny_head(policy()).lm_head.weight.equal(resumed.head.lm_head.weight)
    for name, weights in weights_of(whole.head).items():
        assert torch.equal(weights, resumed.head.state_dict()[name]), name


def test_a_checkpoint_holds_a_head_that_opens(tmp_path):
    rollouts = following()
    grpo(tmp_path, policy(), [rollouts], steps=3, save_strategy="steps", save_steps=3).train()
    saved = Eagle3DraftHead.from_pretrained(
        tmp_path / "checkpoint-3" / "rollout_head", dtype="auto"
    )
    for name, weights in weights_of(rollouts.head).items():
        assert torch.equal(weights, saved.state_dict()[name]), name


def test_a_checkpoint_without_a_head_is_named(tmp_path, caplog):
    grpo(tmp_path, policy(), [], **SAVING).train()
    rollouts = following()
    trainer = grpo(tmp_path, policy(), [rollouts], **(SAVING | dict(steps=7)))
    from eagle_hf.rollouts import saving

    saving.logger.propagate = True
    trainer.train(resume_from_checkpoint=True)
    assert "holds no head" in caplog.text


def test_a_turn_says_what_it_did():
    assert not Turn(1, 0.5, 2.0).diverged
