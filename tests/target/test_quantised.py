"""Quantised and offloaded targets: what they compute is what is read of them."""

import hashlib

import pytest
import quantised
import torch
from tiny import left_padded, word_tokenizer

from eagle_hf import load_target
from eagle_hf.measuring.machine_costs import description
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import draft_vocab_logits, execution_device, target_logits
from eagle_hf.target.matrices import matrix_rows, stored_matrix
from eagle_hf.target.quantised import mixing_layer, plain_parameters, quantised_linears

IDS = torch.tensor([0, 3, 5, 40, 63])
CHOSEN = pytest.mark.parametrize("layout", quantised.ALL, ids=lambda layout: layout.__name__)


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def tied(request):
    return request.param


@torch.no_grad()
def states_and_logits(target):
    """The final-normed states of a batch, and the logits of the model's own forward."""
    ids = left_padded(target, [20, 20])["input_ids"]
    logits = target(ids).logits
    return target.get_decoder()(ids).last_hidden_state, logits


@CHOSEN
def test_logits_are_those_of_the_models_own_forward(layout, tmp_path):
    target = layout(quantised.plain_target(), tmp_path)
    states, logits = states_and_logits(target)
    assert torch.equal(target_logits(target, states).argmax(-1), logits.argmax(-1))
    assert torch.allclose(target_logits(target, states), logits, atol=1e-5)
    assert torch.allclose(draft_vocab_logits(target, IDS)(states), logits[..., IDS], atol=1e-5)


@pytest.mark.parametrize("layout", [quantised.torchao_int8, quantised.dynamic, quantised.disk])
def test_logits_with_a_tied_lm_head_are_those_of_the_models_own_forward(layout, tmp_path):
    target = layout(quantised.plain_target(tied=True), tmp_path)
    states, logits = states_and_logits(target)
    assert torch.allclose(target_logits(target, states), logits, atol=1e-5)
    assert torch.allclose(draft_vocab_logits(target, IDS)(states), logits[..., IDS], atol=1e-5)


@CHOSEN
def test_rows_of_the_lm_head_are_those_it_was_made_of(layout, tmp_path):
    plain = quantised.plain_target()
    target = layout(plain, tmp_path)
    states_and_logits(target)
    rows = matrix_rows(target, target.get_output_embeddings(), IDS, width=64)
    original = plain.lm_head.weight[IDS]  # [U, H]
    assert rows.shape == original.shape
    assert torch.cosine_similarity(rows.flatten(), original.flatten(), dim=0) > 0.99


def test_rows_leave_the_bias_out():
    plain = quantised.plain_target()
    head = torch.nn.Linear(64, quantised.VOCABULARY).requires_grad_(False)
    plain.set_output_embeddings(head)
    target = quantised.torchao_int8(plain, None)
    rows = matrix_rows(target, target.get_output_embeddings(), IDS, width=64)
    assert torch.allclose(rows, head.weight[IDS], atol=2e-3)


@pytest.mark.parametrize("layout", quantised.OFFLOADED, ids=lambda layout: layout.__name__)
def test_offloaded_weights_are_read_where_they_lie(layout, tmp_path):
    plain = quantised.plain_target()
    target = layout(plain, tmp_path)
    assert target.device.type == "meta"
    assert execution_device(target).type == "cpu"
    assert torch.equal(
        stored_matrix(target.get_input_embeddings()), plain.model.embed_tokens.weight
    )
    assert torch.equal(stored_matrix(target.get_output_embeddings()), plain.lm_head.weight)
    assert weights_fingerprint(target) == weights_fingerprint(plain)


def test_a_quantised_matrix_is_no_stored_one():
    target = quantised.torchao_int8(quantised.plain_target(), None)
    assert stored_matrix(target.get_output_embeddings()) is None


def test_the_fingerprint_of_a_plain_model_is_the_hash_of_its_parameters(tied):
    target = quantised.plain_target(tied)
    digest = hashlib.sha256()
    for name, parameter in target.named_parameters():
        sample = parameter.flatten()[:16].bfloat16().float().tolist()
        digest.update(repr((name, tuple(parameter.shape), sample)).encode())
    assert weights_fingerprint(target) == digest.hexdigest()
    assert [name for name, _ in plain_parameters(target)] == [
        name for name, _ in target.named_parameters()
    ]


@CHOSEN
def test_fingerprints_tell_weights_and_nothing_else(layout, tmp_path):
    plain = quantised.plain_target()
    target = layout(plain, tmp_path / "a")
    fingerprint = weights_fingerprint(target)
    states_and_logits(target)  # kernels may repack the weights now
    assert weights_fingerprint(target) == fingerprint
    assert weights_fingerprint(layout(plain, tmp_path / "b")) == fingerprint
    other = layout(quantised.plain_target(seed=1), tmp_path / "c")
    assert weights_fingerprint(other) != fingerprint
    if layout not in quantised.OFFLOADED:
        assert weights_fingerprint(plain) != fingerprint


@CHOSEN
def test_costs_hold_for_a_layout_before_and_after_its_first_forward(layout, tmp_path):
    plain = quantised.plain_target()
    target = layout(plain, tmp_path)
    weights_fingerprint(target)  # compressed-tensors unpacks before anything is measured
    before = description(target, plain, batch=1)
    states_and_logits(target)
    assert description(target, plain, batch=1) == before
    assert description(plain, plain, batch=1) != before


def test_layers_that_mix_tokens_are_found(tmp_path):
    plain = quantised.plain_target()
    assert mixing_layer(plain) is None
    assert mixing_layer(quantised.torchao_int8(plain, tmp_path)) is None
    assert mixing_layer(quantised.dynamic(plain, tmp_path)) == "Linear"


@pytest.mark.parametrize("layout", [quantised.nf4, quantised.int8, quantised.int8_with_outliers])
def test_only_int8_with_outliers_mixes_tokens_in_bitsandbytes(layout, tmp_path):
    target = layout(quantised.plain_target(), tmp_path)
    has_outliers = layout is quantised.int8_with_outliers
    assert mixing_layer(target) == ("Linear8bitLt" if has_outliers else None)


def test_plain_models_have_no_packed_layers():
    assert not list(quantised_linears(quantised.plain_target()))


def test_a_block_of_layers_is_no_packed_layer():
    """Aria's projector says how wide its inputs are, and has no weight of its own."""
    block = torch.nn.Sequential(torch.nn.Linear(8, 4))
    block.in_features = 8
    assert not list(quantised_linears(block))


def test_a_device_and_a_device_map_are_refused_together(tmp_path):
    quantised.plain_target().save_pretrained(tmp_path)
    word_tokenizer(quantised.VOCABULARY).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="device is 'cpu' and device_map 'auto'.*leave one out"):
        load_target(tmp_path, device="cpu", device_map="auto")


def test_an_adapter_over_a_quantised_lm_head_is_part_of_its_rows(tmp_path):
    from peft import LoraConfig, get_peft_model

    target = quantised.nf4(quantised.plain_target(), tmp_path)
    untuned = weights_fingerprint(target)
    lora = LoraConfig(target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    tuned = get_peft_model(target, lora).eval().requires_grad_(False)
    states, logits = states_and_logits(tuned)
    rows = matrix_rows(tuned, tuned.get_base_model().get_output_embeddings(), IDS, width=64)
    assert torch.equal(target_logits(tuned, states), logits)
    assert torch.allclose(states @ rows.T, logits[..., IDS], atol=0.2)
    assert weights_fingerprint(tuned) != untuned
