"""Every trainer of TRL that generates with its model drafts, without a change to its script."""

from typing import Any

import pytest
from tiny import tiny_head, tiny_target, word_tokenizer
from training_runs import COMMON, grpo, logged, lora, policy, prompts, reward
from trl import DistillationConfig, DistillationTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from eagle_hf import TreeConfig
from eagle_hf.rollouts import SpeculativeRollouts

STEPS = 2
pytestmark = pytest.mark.filterwarnings("ignore:.*experimental")


def settings(folder: Any, **others: Any) -> dict[str, Any]:
    """Arguments that all trainers share."""
    return COMMON | dict(output_dir=str(folder), max_steps=STEPS) | others


def with_grpo(folder: Any, callbacks: list) -> Any:
    return grpo(folder, policy(), callbacks, steps=STEPS)


def with_grpo_and_lora(folder: Any, callbacks: list) -> Any:
    return grpo(folder, policy(), callbacks, steps=STEPS, beta=0.1, peft_config=lora())


def with_rloo(folder: Any, callbacks: list) -> Any:
    sizes = dict(per_device_train_batch_size=4, num_generations=4, max_completion_length=8, beta=0)
    return RLOOTrainer(
        model=policy(),
        reward_funcs=reward,
        args=RLOOConfig(**settings(folder, **sizes)),
        train_dataset=prompts(16),
        processing_class=word_tokenizer(),
        callbacks=callbacks,
    )


def with_distillation(folder: Any, callbacks: list) -> Any:
    return DistillationTrainer(
        model=policy(),
        teacher_model=tiny_target(seed=5),
        args=DistillationConfig(**settings(folder, max_completion_length=8)),
        train_dataset=prompts(16),
        processing_class=word_tokenizer(),
        callbacks=callbacks,
    )


def with_gkd(folder: Any, callbacks: list) -> Any:
    rows = []
    for row in prompts(16):
        user = {"role": "user", "content": row["prompt"]}
        rows.append({"messages": [user, {"role": "assistant", "content": "w6 w7 w8"}]})
    return GKDTrainer(
        model=policy(),
        teacher_model=tiny_target(seed=5),
        args=GKDConfig(**settings(folder, lmbda=1.0, max_new_tokens=8, max_length=64)),
        train_dataset=type(prompts(1)).from_list(rows),
        processing_class=word_tokenizer(),
        callbacks=callbacks,
    )


def with_online_dpo(folder: Any, callbacks: list) -> Any:
    return OnlineDPOTrainer(
        model=policy(),
        reward_funcs=reward,
        args=OnlineDPOConfig(**settings(folder, max_new_tokens=8, max_length=64)),
        train_dataset=prompts(16),
        processing_class=word_tokenizer(),
        callbacks=callbacks,
    )


def with_sdpo(folder: Any, callbacks: list) -> Any:
    sizes = dict(per_device_train_batch_size=4, num_generations=4, max_completion_length=8)
    sizes["teacher_model_kind"] = "live"
    return SDPOTrainer(
        model=policy(),
        reward_funcs=reward,
        args=SDPOConfig(**settings(folder, **sizes)),
        train_dataset=prompts(16).map(lambda row: {"privileged_context": None}),
        processing_class=word_tokenizer(),
        callbacks=callbacks,
    )


MAKERS = [
    with_grpo,
    with_grpo_and_lora,
    with_rloo,
    with_distillation,
    with_gkd,
    with_online_dpo,
    with_sdpo,
]


@pytest.mark.parametrize("make", MAKERS, ids=[maker.__name__ for maker in MAKERS])
def test_rollouts_are_drafted_and_learnt_from(tmp_path, make):
    head = tiny_head(policy())
    before = head.lm_head.weight.clone()
    rollouts = SpeculativeRollouts(
        head, tree=TreeConfig(depth=2, top_k=2, nodes=4), learn_share=0.9, measure_every=0
    )
    trainer = make(tmp_path, [])
    trainer.add_callback(rollouts)
    trainer.train()
    assert logged(trainer, "rollout/drafted")[0] == 1.0
    assert logged(trainer, "rollout/tau")[0] >= 1.0
    assert sum(logged(trainer, "rollout/head_steps")) >= 1
    assert not head.lm_head.weight.equal(before)


def test_a_head_of_the_whole_vocabulary_keeps_its_own_rows(tmp_path):
    model = policy()
    head = tiny_head(model, draft_vocab_size=31)
    rows = model.lm_head.weight.clone()
    rollouts = SpeculativeRollouts(
        head, tree=TreeConfig(depth=2, top_k=2, nodes=4), learn_share=0.9, measure_every=0
    )
    trainer = grpo(tmp_path, model, [rollouts], steps=STEPS, learning_rate=0.0)
    trainer.train()
    assert sum(logged(trainer, "rollout/head_steps")) >= 1
    assert model.lm_head.weight.equal(rows)
    assert head.lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()
