"""Heads of every published dialect open, draft as they did, and become ours when saved.

What is no such head is refused by name.
"""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import left_padded, tiny_head

from eagle_hf import Eagle3Config, Eagle3DraftHead
from eagle_hf.head.dialects import DIALECTS, recognise, translate_config, translate_names

PREFIX = {
    "torchspec": "layers.0.",
    "speculators": "layers.0.",
    "modelopt": "layers.0.",
    "automodel": "model.layers.0.",
}
LAYERS = [1, 2, 6]  # HF indices; not the default, so that an error by one shows
IDS = "eagle_aux_hidden_state_layer_ids"
NESTED = {IDS: [0, 1, 5]}
ENGINES = {"architectures": ["LlamaForCausalLMEagle3"]}
MODELOPT = {
    "use_aux_hidden_state": True,
    "use_input_layernorm_in_first_layer": True,
    "use_last_layernorm": True,
    "use_mtp_layernorm": False,
    "next_layer_regular": True,
    "parallel_draft_step": 1,
    "parallel_draft_heads_num_layers": None,
}


def their_config(head, dialect):
    """config.json as the dialect's writer lays it out."""
    config = head.config
    names = [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "hidden_act",
        "max_position_embeddings",
        "rms_norm_eps",
        "vocab_size",
        "num_hidden_layers",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    ]
    llama = {name: getattr(config, name) for name in names}
    llama |= {"model_type": "llama", "rope_theta": 5000.0, "rope_scaling": None}
    flat = llama | {
        "draft_vocab_size": config.draft_vocab_size,
        "torch_dtype": "float64",
        "tie_word_embeddings": False,
    }
    return {
        "authors": flat | {"architectures": ["LlamaForCausalLM"]},
        "specforge": flat | ENGINES | {"eagle_config": NESTED, "attention_bias": True},
        "torchspec": flat | ENGINES | {"eagle_config": NESTED, "_torchspec_version": "0.2.0"},
        "modelopt": flat | ENGINES | {"eagle_config": MODELOPT | NESTED},
        "automodel": flat
        | {
            "architectures": ["LlamaEagle3DraftModel"],
            "model_type": "qwen3",
            "num_hidden_layers": 7,
            "layer_types": ["full_attention"] * 7,
            "target_hidden_size": config.hidden_size,
            "parallel_drafting": False,
            "fc_norm": False,
            "norm_output": False,
        },
        "speculators": {
            "architectures": ["Eagle3DraftModel"],
            "speculators_model_type": "eagle3",
            "draft_vocab_size": config.draft_vocab_size,
            "dtype": "float64",
            IDS: LAYERS,
            "norm_before_fc": False,
            "target_hidden_size": None,
            "transformer_layer_config": llama,
            "auto_map": {"": "config.Eagle3SpeculatorConfig"},
            "speculators_config": {
                "algorithm": "eagle3",
                "proposal_methods": [{"speculative_tokens": 3}],
                "verifier": {"name_or_path": "user/target"},
            },
        },
    }[dialect]


def their_weights(head, dialect):
    """The head's tensors under the dialect's names, with what its writer saves along."""
    prefix = PREFIX.get(dialect, "midlayer.")
    weights = {}
    for name, value in head.state_dict().items():
        weights[name.replace("midlayer.", prefix)] = value.clone()
    if dialect in ("authors", "torchspec", "speculators", "automodel"):
        shape = (head.config.vocab_size, head.config.hidden_size)
        weights["embed_tokens.weight"] = torch.zeros(shape, dtype=head.dtype)
    if dialect == "modelopt":
        del weights["t2d"]
    if dialect == "automodel":
        for name in list(weights):
            if name.startswith(("fc.", "norm.", "embed_tokens.")):
                weights[f"model.{name}"] = weights.pop(name)
    return weights


def write_weights(weights, folder, kind="safetensors"):
    """model.safetensors, pytorch_model.bin, or two shards of either with their index."""
    stem = "model" if "safetensors" in kind else "pytorch_model"
    suffix = "safetensors" if "safetensors" in kind else "bin"
    names = sorted(weights)
    files = {f"{stem}.{suffix}": names}
    if "shards" in kind:
        shards = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
        files = {shards[0]: names[0::2], shards[1]: names[1::2]}
        weight_map = dict.fromkeys(files[shards[0]], shards[0])
        weight_map |= dict.fromkeys(files[shards[1]], shards[1])
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    for file, held in files.items():
        part = {name: weights[name] for name in held}
        if suffix == "safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)


def write_head(head, dialect, folder, kind="safetensors"):
    """A folder as the dialect's writer leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    if dialect == "eagle_hf":
        return head.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(their_config(head, dialect)))
    write_weights(their_weights(head, dialect), folder, kind)


def original(target, dialect):
    """The head that a folder of the dialect is made from."""
    return tiny_head(
        target,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        norm_before_residual=dialect == "speculators",
    )


def logits(head):
    torch.manual_seed(3)
    embeddings = torch.randn(1, 20, 32).double()
    aux = torch.randn(1, 20, 96).double()
    return head.logits(head(embeddings, aux, ttt_length=2)[1])


def change(folder, **changes):
    """Change some keys of a folder's config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_head_of_every_dialect_drafts_as_it_did_and_becomes_ours(target, tmp_path, dialect):
    head = original(target, dialect)
    write_head(head, dialect, tmp_path / "theirs", "bin" if dialect == "authors" else "safetensors")
    opened = Eagle3DraftHead.from_pretrained(tmp_path / "theirs")
    assert opened.dialect == dialect
    assert opened.dtype == torch.float64
    known = {"eagle_hf": [2, 3, 4], "authors": None, "automodel": None}
    assert opened.config.aux_layer_ids == known.get(dialect, LAYERS)
    assert torch.equal(logits(opened), logits(head))
    assert torch.equal(opened.draft_to_target, head.draft_to_target)
    opened.save_pretrained(tmp_path / "ours")
    again = Eagle3DraftHead.from_pretrained(tmp_path / "ours")
    assert again.dialect == "eagle_hf"
    assert again.config.aux_layer_ids == opened.config.aux_layer_ids
    assert torch.equal(logits(again), logits(head))
    assert torch.equal(again.t2d, head.t2d)
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert {"fc.weight", "midlayer.hidden_norm.weight", "d2t", "t2d"} < set(written)


@pytest.mark.parametrize("dialect", DIALECTS[1:])
def test_a_foreign_head_generates_the_targets_own_text(target, tmp_path, dialect):
    write_head(original(target, dialect), dialect, tmp_path)
    head = Eagle3DraftHead.from_pretrained(tmp_path)
    settings = left_padded(target, [7]) | {"max_new_tokens": 12, "do_sample": False}
    text = target.generate(**settings, assistant_model=head)
    assert torch.equal(text, target.generate(**settings))


@pytest.mark.parametrize("kind", ["safetensors shards", "bin", "bin shards"])
def test_every_kind_of_weight_file_holds_the_same_head(target, tmp_path, kind):
    head = original(target, "specforge")
    write_head(head, "specforge", tmp_path, kind)
    assert torch.equal(logits(Eagle3DraftHead.from_pretrained(tmp_path)), logits(head))


OURS = ["fc.weight", "midlayer.hidden_norm.weight"]
THEIRS = ["fc.weight", "layers.0.hidden_norm.weight"]


@pytest.mark.parametrize(
    "config, names, dialect",
    [
        ({"eagle_hf": {}}, OURS, "eagle_hf"),
        ({}, OURS, "authors"),
        ({"architectures": ["Eagle3LlamaForCausalLM"]}, OURS, "authors"),
        (ENGINES, OURS, "specforge"),
        ({"eagle_config": NESTED}, OURS, "specforge"),
        ({}, THEIRS, "torchspec"),
        ({"_torchspec_version": "1"}, OURS, "torchspec"),
        ({"eagle_config": {"use_last_layernorm": True}}, THEIRS, "modelopt"),
        ({"eagle_config": NESTED}, THEIRS, "modelopt"),
        ({"speculators_model_type": "eagle3"}, THEIRS, "speculators"),
        (ENGINES, [f"model.{name}" for name in THEIRS], "automodel"),
        ({"transformer_layer_config": {}}, [], "speculators"),
    ],
)
def test_dialects_are_told_apart(config, names, dialect):
    assert recognise(config, names) == dialect


@pytest.mark.parametrize(
    "config, names, what",
    [
        (
            {},
            ["fc.weight", "embed_tokens.weight", "layers.0.self_attn.q_proj.weight"],
            "EAGLE-1 or EAGLE-2",
        ),
        ({"eagle_config": {"use_aux_hidden_state": False}}, THEIRS, "EAGLE-1 or EAGLE-2"),
        (
            {},
            ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"],
            "whole language model",
        ),
        ({"peft_type": "LORA"}, [], "PEFT adapter"),
        ({}, ["base.fc.lora_A.weight"], "PEFT adapter"),
        ({"speculators_model_type": "peagle"}, [], "speculators model of type 'peagle'"),
        ({}, [*OURS, "mask_hidden"], "P-EAGLE"),
        ({}, [*THEIRS, "layers.1.hidden_norm.weight"], "several layers"),
        ({}, [*THEIRS, "layers.0.self_attn.q_norm.weight"], "normed queries"),
        ({}, [*OURS, "midlayer.self_attn.kv_a_proj_with_mqa.weight"], "latent attention"),
        ({}, [*OURS, "midlayer.mlp.experts.0.up_proj.weight"], "experts"),
        ({}, [*OURS, "lm_head.weight_scale"], "quantised"),
        ({"dflash_config": {}}, [], "DFlash"),
        ({"eagle_config": {"parallel_draft_step": 4}}, THEIRS, "Medusa"),
        ({"eagle_config": {"use_mtp_layernorm": True}}, THEIRS, "other norms"),
        ({}, ["encoder.weight"], "something else"),
    ],
)
def test_what_is_no_eagle3_head_is_named(config, names, what):
    with pytest.raises(ValueError, match=what):
        recognise(config, names)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_residual_is_normed_first_by_default_among_speculators_only(dialect):
    config = {"vocab_size": 8}
    if dialect == "speculators":
        config = {"transformer_layer_config": config}
    by_default = translate_config(config, dialect).get("norm_before_residual", False)
    assert by_default == (dialect == "speculators")
    switched_off = translate_config(config | {"norm_before_residual": False}, dialect)
    assert switched_off["norm_before_residual"] is False


YARN = {"factor": 4.0, "original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    "written, read",
    [
        ({}, {"rope_type": "default", "rope_theta": 10000.0}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_theta": 10000.0},
            {"rope_type": "default", "rope_theta": 1e6},
        ),
        (
            {"rope_theta": 1e6, "rope_scaling": YARN | {"type": "yarn"}},
            YARN | {"rope_type": "yarn", "rope_theta": 1e6},
        ),
        (
            {"rope_parameters": YARN | {"rope_type": "yarn", "rope_theta": 7.0}},
            YARN | {"rope_type": "yarn", "rope_theta": 7.0},
        ),
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
            {"rope_type": "default", "rope_theta": 10000.0},
        ),
    ],
)
def test_rope_is_read_from_either_schema(written, read):
    assert translate_config(written, "specforge")["rope_parameters"] == read


def test_a_window_that_speculators_trained_with_is_kept():
    layer = {"vocab_size": 8, "sliding_window": 2048, "layer_types": ["sliding_attention"]}
    windowed = translate_config({"transformer_layer_config": layer}, "speculators")
    assert windowed["eagle_hf"] == {"window": [0, 2048]}
    layer["layer_types"] = ["full_attention"]
    whole = translate_config({"transformer_layer_config": layer}, "speculators")
    assert whole["eagle_hf"] == {}


def test_the_targets_depth_is_learnt_from_automodels_copy_of_its_config(target, tmp_path):
    write_head(original(target, "automodel"), "automodel", tmp_path)
    config = Eagle3DraftHead.from_pretrained(tmp_path).config
    assert config.num_hidden_layers == 1
    assert config.eagle_hf["target_num_hidden_layers"] == 7


def test_names_become_ours_and_the_targets_own_tensors_are_left():
    theirs = [
        "model.layers.0.mlp.up_proj.weight",
        "model.embed_tokens.weight",
        "layers.0.self_attn.rotary_emb.inv_freq",
        "odd",
    ]
    names = translate_names(theirs, "automodel")
    assert list(names.values()) == ["midlayer.mlp.up_proj.weight", None, None, "odd"]
    with pytest.raises(ValueError, match="same tensor"):
        translate_names(["layers.0.a", "midlayer.a"], "torchspec")


def test_eagle3_config_reads_foreign_files_too(target, tmp_path):
    write_head(original(target, "speculators"), "speculators", tmp_path)
    config = Eagle3Config.from_pretrained(tmp_path)
    assert config.aux_layer_ids == LAYERS
    assert config.norm_before_residual
    assert config.rope_parameters["rope_theta"] == 5000.0


def test_the_dialect_is_logged(target, tmp_path, caplog):
    write_head(original(target, "modelopt"), "modelopt", tmp_path)
    with caplog.at_level(logging.INFO, logger="eagle_hf.head.opening"):
        Eagle3DraftHead.from_pretrained(tmp_path)
    assert "modelopt" in caplog.text


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"hidden_size": 2**40}, "hidden_size is"),
        ({"vocab_size": 10**9}, "vocab_size is"),
        ({"num_aux_hidden_states": 0}, "hidden_states is 0"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"fc_norm": 1}, "fc_norm is 1"),
        ({"eos_token_id": ["a"]}, "eos_token_id"),
        ({"torch_dtype": "int8"}, "dtype is"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"eagle_config": 3}, "eagle_config is 3"),
        ({"rope_scaling": {"type": "warp"}}, "RoPE type is 'warp'"),
        ({"rope_scaling": {"type": "yarn", "factor": "four"}}, "cannot be opened as an"),
        ({"eagle_config": {IDS: "all"}}, "needed is a list of layers"),
        ({"eagle_config": {IDS: [1, 2]}, "num_aux_hidden_states": 3}, "2 layer ids"),
        ({"num_hidden_layers": 2}, "exactly one layer"),
        ({"norm_before_fc": True}, "norm_before_fc"),
        ({"num_attention_heads": 3}, "a multiple of"),
        ({"hidden_act": "leap"}, "leap"),
        ({"eagle_hf": {"tree": {"depth": "deep"}}}, "tree depth"),
        ({"eagle_hf": {"trained_length": []}}, "length is"),
        ({"eagle_hf": {"window": [4, "all"]}}, "window is"),
        ({"eagle_hf": {"tree": {"policy": "chain", "depth": 10**9}}}, "larger than"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_folders_name(target, tmp_path, changes, what):
    write_head(original(target, "specforge"), "specforge", tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(ValueError, match=what) as refused:
        Eagle3DraftHead.from_pretrained(tmp_path)
    assert str(tmp_path) in str(refused.value)
