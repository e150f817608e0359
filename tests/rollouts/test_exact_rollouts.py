"""Training with drafted rollouts is training without: bit for bit where draws are the same."""

from typing import Any

import pytest
import torch
from tiny import tiny_head
from training_runs import grpo, logged, lora, policy, weights_of

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.rollouts import SpeculativeRollouts

TREE = TreeConfig(depth=3, top_k=3, nodes=8)
STEPS = 30
# a policy that moves slowly enough for a frozen head
PAIRS = dict(per_device_train_batch_size=2, num_generations=2, temperature=0.6, learning_rate=1e-3)


@pytest.fixture(scope="module")
def head_weights(trained_head: Eagle3DraftHead) -> dict[str, torch.Tensor]:
    """The weights of a head that learnt a little of the policy."""
    return weights_of(trained_head)


def head_of(weights: dict[str, torch.Tensor]) -> Eagle3DraftHead:
    """A head with these weights."""
    head = tiny_head(policy())
    head.load_state_dict(weights)
    return head


def trained(folder: Any, callbacks: list, **settings: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """(trainer, the policy's weights) after some steps of GRPO, in pairs."""
    model = policy()
    trainer = grpo(folder, model, callbacks, **(dict(steps=STEPS) | PAIRS | settings))
    trainer.train()
    return trainer, weights_of(trainer.model)


@pytest.mark.parametrize("learn_every", [0, 2], ids=["frozen head", "following head"])
def test_same_seed_weights_are_bit_identical(tmp_path, head_weights, learn_every):
    _, alone = trained(tmp_path / "plain", [])
    rollouts = SpeculativeRollouts(
        head_of(head_weights),
        tree=TREE,
        learn_every=learn_every,
        learn_share=0.9,
        measure_every=7,
        same_seed=True,
    )
    rollouts.pace.add = lambda *_: None  # timing must not choose what this test tries
    trainer, drafted = trained(tmp_path / "drafted", [rollouts])
    taus = logged(trainer, "rollout/tau")
    assert len(taus) > STEPS / 2
    assert sum(taus) / len(taus) > 1.05
    for name, weights in alone.items():
        assert torch.equal(weights, drafted[name]), name


def test_rewards_follow_when_the_policy_has_a_lora(tmp_path, head_weights):
    settings = dict(steps=6, peft_config=lora())
    alone_trainer, _ = trained(tmp_path / "plain", [], **settings)
    rollouts = SpeculativeRollouts(
        head_of(head_weights), tree=TREE, measure_every=0, same_seed=True
    )
    trainer, _ = trained(tmp_path / "drafted", [rollouts], **settings)
    assert logged(trainer, "rollout/drafted") == [1.0] * 6
    assert logged(trainer, "reward") == logged(alone_trainer, "reward")


def test_gradient_checkpointing_changes_nothing(tmp_path, head_weights):
    settings = dict(steps=4, gradient_checkpointing=True)
    alone_trainer, alone = trained(tmp_path / "plain", [], **settings)
    rollouts = SpeculativeRollouts(
        head_of(head_weights), tree=TREE, measure_every=0, same_seed=True
    )
    trainer, drafted = trained(tmp_path / "drafted", [rollouts], **settings)
    assert logged(trainer, "rollout/drafted") == [1.0] * 4
    assert all(torch.equal(weights, drafted[name]) for name, weights in alone.items())


@pytest.mark.slow
def test_rewards_have_the_same_distribution(tmp_path, head_weights):
    """A permutation test on mean rewards of 16 runs each, refused below p = 0.01."""
    means: dict[str, list[float]] = {"plain": [], "drafted": []}
    for seed in range(16):
        for kind, found in means.items():
            callbacks = []
            if kind == "drafted":
                callbacks = [SpeculativeRollouts(head_of(head_weights), tree=TREE, measure_every=0)]
            trainer, _ = trained(
                tmp_path / f"{kind}{seed}", callbacks, seed=seed, max_completion_length=6
            )
            rewards = logged(trainer, "reward")
            found.append(sum(rewards) / len(rewards))
    assert permutation_p(means["plain"], means["drafted"]) > 0.01
    shifted = [mean + 4 * torch.tensor(means["plain"]).std().item() for mean in means["drafted"]]
    assert permutation_p(means["plain"], shifted) < 0.01, "the test could not fail"


def permutation_p(ours: list[float], theirs: list[float], draws: int = 2000) -> float:
    """How often a random split differs in its means as much as this one."""
    values = torch.tensor(ours + theirs)
    generator = torch.Generator().manual_seed(0)
    seen = abs(values[: len(ours)].mean() - values[len(ours) :].mean())
    hits = 0
    for _ in range(draws):
        mixed = values[torch.randperm(len(values), generator=generator)]
        hits += int(abs(mixed[: len(ours)].mean() - mixed[len(ours) :].mean()) >= seen)
    return hits / draws
