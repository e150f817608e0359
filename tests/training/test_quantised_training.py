"""Training on quantised and offloaded targets learns what those targets say."""

import math

import pytest
import quantised
import torch
from tiny import tiny_head
from training_checks import losses

from eagle_hf import new_head
from eagle_hf.data import Features, capture_features

LAYERS = [1, 2, 3]
PACKED = [layout for layout in quantised.ALL if layout not in quantised.OFFLOADED]


def named(layouts):
    return pytest.mark.parametrize("layout", layouts, ids=lambda layout: layout.__name__)


@named(quantised.OFFLOADED)
def test_an_offloaded_target_teaches_what_it_teaches_in_memory(layout, examples, trained, tmp_path):
    plain = quantised.plain_target()
    target = layout(plain, tmp_path / "target")
    runs = []
    for teacher in (plain, target):
        torch.manual_seed(0)
        head, _ = new_head(teacher, examples, 24, fill_by_rank=True)
        settings = dict(eval_dataset=examples[:4], eval_strategy="steps", eval_steps=6)
        settings |= dict(eval_prompts=2, eval_new_tokens=8, target_states_gb=1.0)
        trainer = trained(teacher, head, examples, tmp_path / "run", **settings)
        evaluation = next(log for log in trainer.state.log_history if "eval_tau" in log)
        runs.append([*losses(trainer), evaluation["eval_loss"], evaluation["eval_tau"]])
    assert runs[0] == runs[1]


@named(PACKED)
def test_the_first_loss_is_that_of_a_head_that_knows_nothing(layout, examples, trained, tmp_path):
    """Wrong logits showed as losses of 62 to 102."""
    target = layout(quantised.plain_target(), tmp_path / "target")
    trainer = trained(target, tiny_head(target), examples, tmp_path / "run", logging_steps=1)
    passes = 3  # each adds the cross-entropy of 24 draft tokens, later ones with less weight
    assert max(losses(trainer)) < passes * 2 * math.log(24)


@named(quantised.ALL)
def test_captured_features_are_the_targets_own(layout, examples, tmp_path):
    target = layout(quantised.plain_target(), tmp_path / "target")
    capture_features(
        target,
        examples,
        tmp_path / "features",
        layer_ids=LAYERS,
        template_sha256="t",
        dtype="float32",
        batch_tokens=1,  # one conversation at a time, as below
        progress=False,
    )
    captured = Features(tmp_path / "features")[3]
    ids = torch.as_tensor(captured["input_ids"]).long()[None]
    with torch.no_grad():
        output = target(ids, output_hidden_states=True)
    states = torch.cat([output.hidden_states[layer] for layer in LAYERS], dim=-1)
    assert torch.equal(captured["best"], output.logits[0].argmax(-1))
    assert torch.allclose(captured["aux_hidden_states"], states[0], atol=1e-5)
