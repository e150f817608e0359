"""A fresh head takes over what the target knows."""

import pytest
import torch
from transformers import (
    CohereForCausalLM,
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    OlmoForCausalLM,
    OPTForCausalLM,
)

from eagle_hf import new_head
from eagle_hf.target import target_states
from eagle_hf.training import start
from eagle_hf.training.start import NORM_SCALE

SIZES = dict(vocab_size=31, hidden_size=32, num_hidden_layers=7, num_attention_heads=4)


def seeded(model_class, **config):
    """A random model with norms that differ from one."""
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**SIZES, **config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model


def test_new_head_starts_from_the_target(target, examples):
    head, _ = new_head(target, examples, 20, fc_norm=True)
    assert torch.equal(head.lm_head.weight, target.lm_head.weight[head.draft_to_target])


def test_the_draft_vocabulary_is_the_most_frequent_response_tokens(target, examples):
    head, covered = new_head(target, examples, 20)
    responses = []
    for example in examples:
        responses += example["input_ids"][4:]
    counts = torch.bincount(torch.tensor(responses), minlength=31)
    chosen = counts[head.draft_to_target]
    assert covered == pytest.approx(float(chosen.sum() / counts.sum()))
    assert chosen.min() >= counts.sort().values[11]


def test_every_dimension_of_calibrated_states_is_as_loud(target, examples):
    head, _ = new_head(target, examples, 20, fc_norm=True)
    longest = torch.tensor([example["input_ids"][:32] for example in examples[-8:]])
    aux, _ = target_states(target, longest, [2, 3, 4])
    for norm, states in zip(head.fc_norm, aux.chunk(3, dim=-1), strict=True):
        spread = norm(states).square().mean((0, 1))
        assert torch.allclose(spread, torch.ones(32), atol=1e-4)


def test_a_draft_vocabulary_larger_than_the_text_is_refused(target):
    examples = [{"id": "x", "input_ids": [5, 6], "loss_mask": [0, 1]}]
    with pytest.raises(ValueError, match="hold 1 distinct tokens"):
        new_head(target, examples, 20)


@pytest.mark.parametrize(
    "model_class, config, norm, added, factor",
    [
        (LlamaForCausalLM, {}, "model.norm", 0, 1),
        (Gemma2ForCausalLM, {"head_dim": 8}, "model.norm", 1, 1),
        (GPT2LMHeadModel, {}, "transformer.ln_f", 0, 1),
        (OPTForCausalLM, {"ffn_dim": 48}, "model.decoder.final_layer_norm", 0, 1),
        (CohereForCausalLM, {"logit_scale": 0.2}, "model.norm", 0, 0.2),
    ],
)
def test_the_final_norm_starts_from_what_the_targets_does(
    examples, model_class, config, norm, added, factor
):
    target = seeded(model_class, **config)
    head, _ = new_head(target, examples, 20)
    gain = added + target.get_submodule(norm).weight
    assert torch.allclose(head.norm.weight, NORM_SCALE * factor * gain, atol=1e-4)


def test_a_final_norm_without_a_weight_has_a_gain_of_one(examples):
    head, _ = new_head(seeded(OlmoForCausalLM), examples, 20)
    assert torch.allclose(head.norm.weight, torch.full((32,), NORM_SCALE), atol=1e-4)


def test_a_config_that_counts_other_layers_than_the_target_has_is_said(examples, monkeypatch):
    said = []
    monkeypatch.setattr(start.logger, "warning", said.append)
    target = seeded(LlamaForCausalLM)
    target.config.num_hidden_layers = 14  # as LongCat counts its double layers
    head, _ = new_head(target, examples, 20)
    assert head.config.aux_layer_ids == [2, 3, 4]
    assert said == ["the head reads what enters layers [2, 3, 4] of LlamaForCausalLM"]


def test_a_target_that_cannot_teach_is_refused_before_anything_is_counted():
    target = seeded(OPTForCausalLM, ffn_dim=48, word_embed_proj_dim=16)
    with pytest.raises(ValueError, match="word_embed_proj_dim=16"):
        new_head(target, [], 20)


def test_a_target_in_training_mode_is_read_without_dropout(examples):
    target = seeded(GPT2LMHeadModel, resid_pdrop=0.5).train()
    new_head(target, examples, 20)
    assert target.training


@pytest.mark.parametrize(
    "rows, found",
    [
        ([{"messages": [], "id": "x"}], "example 'x' is a row of messages, id"),
        ([{"input_ids": [5, 6]}], "example 0 is a row of input_ids"),
        (([], []), "example 0 is an empty list"),  # all that prepare_examples returned
        (["a text"], "example 0 is of type str"),
    ],
    ids=["conversations", "without masks", "a pair", "texts"],
)
def test_rows_that_nobody_has_tokenised_are_told_how(target, rows, found):
    with pytest.raises(ValueError, match=f"{found}; tokenised rows .*prepare_examples\\("):
        new_head(target, rows, 20)
