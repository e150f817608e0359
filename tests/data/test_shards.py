"""How features lie in a shard, and what int8 loses."""

import torch
from feature_folders import shard_name
from safetensors.torch import load_file

from eagle_hf.data import Features
from eagle_hf.data.features.shards import dequantise, measure_spread, quantise


def small_dimensions_error(restored, states):
    """The relative error of the dimensions of usual size, first token aside."""
    error = (restored - states)[1:, :, :5].norm() / states[1:, :, :5].norm()
    return error.item()


def test_int8_error_is_at_most_half_a_step_and_small_where_few_dimensions_are_huge():
    torch.manual_seed(0)
    states = torch.randn(64, 4, 32)
    states[:, :, 5] = states[:, :, 5] * 400 + 300
    states[:, 1, 7] = states[:, 1, 7] * 1000
    states[0] *= 50  # a first token
    spread = measure_spread(states)
    errors = {}
    for name, divisor in (("spread", spread), ("plain", torch.ones_like(spread))):
        values, scales = quantise(states, divisor)
        restored = dequantise(values, scales, divisor)
        assert values.dtype == torch.int8
        assert scales.shape == (64, 4)
        assert ((restored - states).abs() <= 0.501 * scales[..., None] * divisor).all()
        errors[name] = small_dimensions_error(restored, states)
    assert errors["spread"] < 0.03 < 0.3 < errors["plain"]


def test_silent_dimension_and_zero_token_survive_int8():
    states = torch.randn(8, 4, 16)
    states[:, :, 3] = 0
    states[2] = 0
    spread = measure_spread(states)
    values, scales = quantise(states, spread)
    restored = dequantise(values, scales, spread)
    assert restored.isfinite().all()
    assert (restored[2] == 0).all()
    assert (restored[:, :, 3] == 0).all()


def test_shard_is_a_safetensors_file_with_known_names(write, tmp_path):
    write(tmp_path, shard_bytes=2**20)
    item = Features(tmp_path)[3]  # the first of the two longest
    shard = load_file(tmp_path / shard_name(0))
    assert torch.equal(shard["0.aux_hidden_states"], item["aux_hidden_states"])
    assert shard["0.input_ids"].tolist() == item["input_ids"].tolist()
    assert shard["0.loss_mask"].shape == (32,)
    assert shard["7.best"].dtype == torch.int32
