"""A head whose fc is trained in other units is an ordinary head wherever it is saved."""

import pytest
import torch
from safetensors.torch import load_file
from training_checks import same_weights

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, new_head
from eagle_hf.target import target_states
from eagle_hf.training import lora_config, plain_fc
from eagle_hf.training.scaled_fc import ScaledLinear


@pytest.fixture
def scaled(target, examples):
    """A head that is trained in other units."""
    torch.manual_seed(0)
    return new_head(target, examples, 20, fc_start="scaled")[0]


def aux_states(target):
    """Aux hidden states [1, 24, 3H] of some text."""
    ids = torch.randint(3, 31, (1, 24), generator=torch.Generator().manual_seed(1))
    return target_states(target, ids, [2, 3, 4])[0]


def test_fc_begins_as_the_mean_of_states_over_their_spread(target, scaled):
    states = aux_states(target)
    parts = (states / scaled.fc.spread).chunk(3, dim=-1)
    assert torch.allclose(scaled.fuse(states), sum(parts) / 3, atol=1e-5)


def test_spreads_are_measured_ones_to_the_next_power_of_two(target, examples, scaled):
    longest = sorted(examples, key=lambda example: len(example["input_ids"]))[-8:]
    length = len(longest[0]["input_ids"])
    cut = torch.tensor([example["input_ids"][:length] for example in longest])
    measured = target_states(target, cut, [2, 3, 4])[0][:, 1:].square().mean((0, 1)).sqrt()
    octaves = (scaled.fc.spread / measured).log2()
    assert octaves.abs().max() <= 0.501
    assert torch.equal(scaled.fc.spread.log2(), scaled.fc.spread.log2().round())


def test_a_saved_head_is_plain_and_computes_the_same(target, scaled, tmp_path):
    scaled.save_pretrained(tmp_path)
    saved = Eagle3DraftHead.from_pretrained(tmp_path)
    states = aux_states(target)
    assert type(saved.fc) is torch.nn.Linear
    assert torch.allclose(saved.fuse(states), scaled.fuse(states), atol=1e-5)
    assert set(load_file(tmp_path / "model.safetensors")) == set(saved.state_dict())


def test_every_dimension_is_trained_in_units_of_its_own(
    target, examples, scaled, trained, tmp_path
):
    """Adam's first step moves every trained weight by the learning rate."""
    before = scaled.state_dict()["fc.weight"].clone()
    trained(target, scaled, examples, tmp_path, max_steps=1, learning_rate=1e-3, warmup_steps=0)
    moved = (scaled.state_dict()["fc.weight"] - before).abs().amax(0)
    assert torch.allclose(moved * scaled.fc.spread, torch.full((96,), 1e-3), rtol=1e-2)


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(target, examples, trained, tmp_path):
    def head():
        torch.manual_seed(0)
        return new_head(target, examples, 20, fc_start="scaled")[0]

    settings = dict(save_strategy="steps", save_steps=2, max_steps=4)
    whole = trained(target, head(), examples, tmp_path, **settings)
    checkpoint = tmp_path / "checkpoint-2"
    assert type(Eagle3DraftHead.from_pretrained(checkpoint).fc) is torch.nn.Linear
    resumed = trained(target, head(), examples, tmp_path, resume=str(checkpoint), **settings)
    assert isinstance(resumed.model.fc, ScaledLinear)
    assert same_weights(resumed.model, whole.model)


def test_a_run_in_other_units_is_not_resumed(target, examples, scaled, trained, tmp_path):
    head, _ = new_head(target, examples, 20)
    settings = dict(save_strategy="steps", save_steps=2, max_steps=4)
    trained(target, scaled, examples, tmp_path, **settings)
    with pytest.raises(ValueError, match="fc_start"):
        trained(target, head, examples, tmp_path, resume=True, **settings)


def test_scales_are_folded_on_demand(target, scaled):
    states = aux_states(target)
    expected = scaled.fuse(states)
    saved = scaled.state_dict()["fc.weight"].clone()
    assert plain_fc(scaled) is scaled
    assert type(scaled.fc) is torch.nn.Linear
    assert torch.equal(scaled.fc.weight, saved)
    assert torch.allclose(scaled.fuse(states), expected, atol=1e-5)


def test_a_plain_head_stays_as_it_is(head):
    fc = head.fc
    assert plain_fc(head).fc is fc


def test_an_adapter_over_other_units_is_refused(target, examples, scaled, arguments, tmp_path):
    with pytest.raises(ValueError, match="plain_fc"):
        Eagle3Trainer(
            model=scaled,
            target=target,
            args=arguments(tmp_path),
            train_dataset=examples,
            peft_config=lora_config(2, ["fc"]),
        )


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"fc_start": "mean"}, "choose one of random, scaled"),
        ({"fc_start": "scaled", "fc_norm": True}, "choose one"),
    ],
    ids=["unknown", "twice"],
)
def test_a_start_that_cannot_be_is_refused(target, examples, settings, said):
    with pytest.raises(ValueError, match=said):
        new_head(target, examples, 20, **settings)
