"""Training arguments: every one changes the run, impossible ones are refused."""

import pytest
import torch
from tiny import tiny_head


@pytest.mark.parametrize(
    "field, value",
    [
        ("ttt_decay", 0.1),
        ("ttt_length", 1),
        ("adam_beta2", 0.5),
        ("max_grad_norm", 1e-3),
        ("max_length", 25),
        ("learn_prompts", True),
        ("feature_dropout", 0.3),
        ("loss_type", "log_alpha"),
        ("loss_type", "lk_hybrid"),
        ("loss_normaliser", "slots"),
        ("train_sampling_strategy", "group_by_length"),
    ],
)
def test_every_argument_changes_the_run(target, examples, tmp_path, field, value, trained):
    plain = trained(target, tiny_head(target), examples, tmp_path, max_steps=4)
    changed = trained(target, tiny_head(target), examples, tmp_path, max_steps=4, **{field: value})
    pairs = zip(plain.model.parameters(), changed.model.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "bad",
    [dict(ttt_length=0), dict(max_minutes=-1.0), dict(ttt_curriculum=[0, 2]), dict(max_length=0)],
)
def test_impossible_arguments_are_refused(tmp_path, bad, arguments):
    with pytest.raises(ValueError, match=next(iter(bad))):
        arguments(tmp_path, **bad)


def test_reentrant_checkpointing_is_refused(arguments, tmp_path):
    with pytest.raises(ValueError, match="use_reentrant=False"):
        arguments(
            tmp_path,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": True},
        )
