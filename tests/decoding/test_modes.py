"""The mode of a model: what training mode changes is named before anything is computed."""

import pytest
import torch
from drafting import plain_and_drafted
from peft import LoraConfig, get_peft_model
from tiny import left_padded, tiny_target

from eagle_hf import SelfSpeculation, WindowedDraft


@pytest.fixture
def assistants(head, small_model):
    return [head, SelfSpeculation(2, 9), WindowedDraft(small_model, window=None)]


def refuse(target, assistant, message, monkeypatch):
    """Expect the message, and no forward."""
    with monkeypatch.context() as patch:
        patch.setattr(target.get_decoder(), "forward", None)
        with pytest.raises(ValueError, match=message):
            target.generate(**left_padded(target, [5]), assistant_model=assistant, max_new_tokens=5)


def test_gradient_checkpointing_in_training_is_told_to_call_eval(assistants, monkeypatch):
    target = tiny_target()
    target.gradient_checkpointing_enable()
    target.train()
    for assistant in assistants:
        message = "the target is in training mode with gradient checkpointing.*eval()"
        refuse(target, assistant, message, monkeypatch)
    target.eval()
    plain, fast = plain_and_drafted(
        target, assistants[0], left_padded(target, [5]), max_new_tokens=9
    )
    assert torch.equal(plain, fast)


def test_dropout_in_training_is_told_to_call_eval(assistants, monkeypatch):
    target = tiny_target(attention_dropout=0.5).train()
    for assistant in assistants:
        message = r"model.layers.0.self_attn has attention_dropout=0.5: its logits are random"
        refuse(target, assistant, message, monkeypatch)


def test_dropout_of_an_adapter_over_a_target_in_eval_mode_is_found(head, monkeypatch):
    config = LoraConfig(target_modules=["q_proj"], lora_dropout=0.1, init_lora_weights=False)
    model = get_peft_model(tiny_target(), config)  # its layers are in training mode
    refuse(model.get_base_model(), head, r"lora_dropout.default has p=0.1", monkeypatch)
    plain, fast = plain_and_drafted(model.eval(), head, left_padded(model, [5]), max_new_tokens=9)
    assert torch.equal(plain, fast)


def test_training_mode_without_either_is_served(assistants):
    target = tiny_target().train()
    for assistant in assistants:
        inputs = left_padded(target, [5, 3])
        plain, fast = plain_and_drafted(target, assistant, inputs, max_new_tokens=20)
        assert torch.equal(plain, fast)


def test_a_draft_model_with_dropout_in_training_is_refused(target, monkeypatch):
    draft = tiny_target(layers=2, seed=3, attention_dropout=0.5).train()
    message = "the draft model is in training mode and .*attention_dropout=0.5"
    refuse(target, WindowedDraft(draft), message, monkeypatch)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(target, assistants, context):
    for assistant in assistants:
        inputs = left_padded(target, [5, 3])
        with context():
            plain, fast = plain_and_drafted(target, assistant, inputs, max_new_tokens=20)
        assert torch.equal(plain, fast)


FLAGS = [dict(output_hidden_states=True), dict(use_cache=False)]


@pytest.mark.parametrize("flag", FLAGS, ids=str)
def test_a_config_that_asks_for_too_much_is_told_what_to_pass(head, flag, monkeypatch):
    target = tiny_target(**flag)
    (name,) = flag
    remedy = {name: not flag[name]}
    refuse(target, head, f"{name}.*pass {name}={remedy[name]}", monkeypatch)
    settings = dict(max_new_tokens=20, return_dict_in_generate=False, **remedy)
    plain, fast = plain_and_drafted(target, head, left_padded(target, [5, 3]), **settings)
    assert torch.equal(plain, fast)


def test_states_that_generate_would_not_return_are_no_hindrance(target, head):
    inputs = left_padded(target, [5, 3])
    settings = dict(max_new_tokens=20, output_hidden_states=True)
    plain, fast = plain_and_drafted(target, head, inputs, **settings)
    assert torch.equal(plain, fast)
