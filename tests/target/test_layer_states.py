"""States between layers are counted as engines count them, and the final norm is applied apart."""

import pytest
import torch
from tiny import tiny_target
from transformers import (
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    OPTForCausalLM,
    PhiForCausalLM,
    PreTrainedModel,
)

from eagle_hf.target import apply_final_norm, read_layer_states

SIZES = dict(vocab_size=31, hidden_size=32, num_hidden_layers=4, num_attention_heads=4)
TEXT = torch.arange(3, 15)


def seeded(model_class: type[PreTrainedModel], **config) -> PreTrainedModel:
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**SIZES, **config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (LlamaForCausalLM, {}),
        (Gemma2ForCausalLM, {"head_dim": 8}),
        (GPT2LMHeadModel, {}),
        (OPTForCausalLM, {"ffn_dim": 48}),
        (PhiForCausalLM, {}),
    ],
)
def test_states_are_those_of_transformers_and_the_last_one_lacks_the_norm(model_class, config):
    target = seeded(model_class, **config)
    states = read_layer_states(target, TEXT, [4, 0, 3])
    with torch.no_grad():
        theirs = target.get_decoder()(TEXT[None], output_hidden_states=True).hidden_states
    assert torch.equal(states[1], theirs[0][0])
    assert torch.allclose(states[2], theirs[3][0], atol=1e-5)
    assert not torch.allclose(states[0], theirs[4][0], atol=1e-2)
    assert torch.allclose(apply_final_norm(target, states[0]), theirs[4][0], atol=1e-5)


def test_the_last_state_can_be_read_alone():
    target = tiny_target(dtype=torch.float32)
    (alone,) = read_layer_states(target, TEXT, [7])
    assert torch.equal(alone, read_layer_states(target, TEXT, [2, 7])[1])


def test_a_target_without_a_final_norm_is_refused():
    target = seeded(OPTForCausalLM, ffn_dim=48, do_layer_norm_before=False)
    with pytest.raises(ValueError, match="OPTForCausalLM has no final norm that this package"):
        read_layer_states(target, TEXT, [2])


def test_a_target_that_changes_its_states_behind_the_norm_is_refused():
    target = tiny_target(dtype=torch.float32)

    def doubled(module, args, output):
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    target.model.register_forward_hook(doubled)
    with pytest.raises(ValueError, match="are not what its final norm makes of its last layer"):
        read_layer_states(target, TEXT, [2])
