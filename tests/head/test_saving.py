"""One layout on disk: saved heads come back bit for bit, damaged ones are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3Config, Eagle3DraftHead, TreeConfig

LAYER_IDS = "eagle_aux_hidden_state_layer_ids"
FLAGS = [{}, {"fc_norm": True}, {"norm_output": True}, {"draft_vocab_size": 31}]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_save_load_save_is_the_same_to_the_bit(target, tmp_path, flags):
    head = tiny_head(target, **flags)
    head.tree = TreeConfig(depth=3, top_k=2, nodes=5)
    head.save_pretrained(tmp_path / "a")
    again = Eagle3DraftHead.from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    assert again.tree == head.tree
    assert again.config.aux_layer_ids == [2, 3, 4]
    saved = head.state_dict()
    opened = again.state_dict()
    assert list(saved) == list(opened)
    for name in saved:
        assert torch.equal(saved[name], opened[name]), name
    embeddings = torch.randn(1, 40, 32).double()
    aux = torch.randn(1, 40, 96).double()
    output = head(embeddings, aux, ttt_length=2)[1]
    assert torch.equal(again(embeddings, aux, ttt_length=2)[1], output)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_config_is_what_the_engines_parse(target, tmp_path):
    tiny_head(target).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert config["model_type"] == "llama"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["rope_scaling"] is None
    assert config["vocab_size"] == 31
    assert config["draft_vocab_size"] == 24
    assert config["target_hidden_size"] == 32
    assert config["eagle_config"] == {"use_aux_hidden_state": True}
    assert config["tie_word_embeddings"] is False
    # the default layers: every engine's fallback
    assert LAYER_IDS not in config
    for key in (
        "num_aux_hidden_states",
        "norm_before_residual",
        "norm_before_fc",
        "fc_norm",
        "norm_output",
        "head_dim",
        "eos_token_id",
    ):
        assert key in config


def test_other_layers_are_written_where_engines_look(target, tmp_path):
    tiny_head(target, eagle_hf={"aux_layer_ids": [1, 2, 6]}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config[LAYER_IDS] == [1, 2, 6]  # vLLM, llama.cpp: HF indices
    assert config["eagle_config"][LAYER_IDS] == [0, 1, 5]  # SGLang: one lower
    assert Eagle3DraftHead.from_pretrained(tmp_path).config.aux_layer_ids == [1, 2, 6]


def test_weights_have_the_names_and_shapes_the_engines_load(target, tmp_path):
    tiny_head(target).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["fc.weight"].shape == (32, 96)
    assert weights["midlayer.self_attn.q_proj.weight"].shape == (32, 64)
    assert weights["lm_head.weight"].shape == (24, 32)
    assert weights["d2t"].dtype == torch.int64
    assert weights["t2d"].dtype == torch.bool
    assert weights["t2d"].sum() == 24
    assert len(weights) == 15


def test_full_vocabulary_writes_no_map(target, tmp_path):
    tiny_head(target, draft_vocab_size=31).save_pretrained(tmp_path)
    assert {"d2t", "t2d"}.isdisjoint(load_file(tmp_path / "model.safetensors"))


def test_rope_stays_exact_in_low_precision(target):
    head = tiny_head(target)
    exact = head.rotary_emb.inv_freq.float().clone()
    assert torch.equal(head.to(torch.bfloat16).rotary_emb.inv_freq.float(), exact)


@pytest.mark.parametrize(
    "keys",
    [
        {LAYER_IDS: [1, 2, 6]},
        {"eagle_config": {LAYER_IDS: [0, 1, 5], "use_aux_hidden_state": True}},
    ],
)
def test_layer_ids_of_foreign_heads_are_understood_and_kept(target, tmp_path, keys):
    tiny_head(target).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["eagle_hf"]
    (tmp_path / "config.json").write_text(json.dumps(config | keys))
    head = Eagle3DraftHead.from_pretrained(tmp_path)
    assert head.config.aux_layer_ids == [1, 2, 6]
    head.save_pretrained(tmp_path / "again")
    assert Eagle3DraftHead.from_pretrained(tmp_path / "again").config.aux_layer_ids == [1, 2, 6]
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written[LAYER_IDS] == [1, 2, 6]


def test_trainer_style_state_dict_round_trip_keeps_the_map(target):
    head = tiny_head(target)
    other = tiny_head(target, seed=5)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.draft_to_target, head.draft_to_target)


def test_a_truncated_weight_file_is_refused(target, tmp_path):
    tiny_head(target).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or damaged"):
        Eagle3DraftHead.from_pretrained(tmp_path)


def test_a_missing_weight_file_is_refused(target, tmp_path):
    tiny_head(target).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no readable weight file"):
        Eagle3DraftHead.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", ["missing_keys", "unexpected_keys", "mismatched_keys"])
def test_weights_that_do_not_fit_the_config_are_refused(target, tmp_path, change):
    tiny_head(target).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if change == "missing_keys":
        del weights["d2t"]
    elif change == "unexpected_keys":
        weights["extra.weight"] = torch.zeros(2)
    else:
        weights["fc.weight"] = torch.zeros(32, 64)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"does not hold the weights .*{change}"):
        Eagle3DraftHead.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "settings, what",
    [
        (dict(vocab_size=100, draft_vocab_size=200), "draft_vocab_size is 200"),
        (dict(hidden_size=64, target_hidden_size=32, num_attention_heads=4), "hidden_size is 64"),
        (dict(num_hidden_layers=2), "exactly one layer"),
        (dict(norm_before_fc=True), "not implemented"),
    ],
)
def test_impossible_configurations_are_refused(settings, what):
    with pytest.raises(ValueError, match=what):
        Eagle3Config(**settings)


def test_a_target_too_shallow_is_refused():
    with pytest.raises(ValueError, match="at least 3 layers"):
        Eagle3Config.from_target(tiny_target(layers=2))


def test_a_fixed_shape_is_saved_with_the_head(target, tmp_path):
    head = tiny_head(target)
    head.tree = TreeConfig("sequoia", parents=(0, 0, 0, 1), ranks=(0, 0, 1, 0))
    head.save_pretrained(tmp_path)
    assert Eagle3DraftHead.from_pretrained(tmp_path).tree == head.tree
    assert head.tree.nodes == 3
