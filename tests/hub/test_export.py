"""Every engine gets a folder in which it finds the layers the head was trained on, or an error."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.hub.engines import SERVERS, SGLANG
from eagle_hf.hub.export import LAYOUTS, export_head, named_target
from eagle_hf.hub.export.layer_ids import engine_layer_ids, other_layers
from eagle_hf.hub.export.layouts import layout_config, speculators_config

OTHER = {"aux_layer_ids": [1, 3, 6]}


def read_config(folder):
    return json.loads(Path(folder, "config.json").read_text())


def is_same_head(head, other):
    """Whether two heads compute the same logits, of the same tokens."""
    torch.manual_seed(0)
    embeddings = torch.randn(1, 12, 32).to(head.dtype)
    aux = torch.randn(1, 12, 96).to(head.dtype)
    logits = []
    for each in (head, other):
        outputs = each(embeddings, aux, ttt_length=2)
        logits.append(each.logits(outputs[1]))
    return torch.equal(*logits) and torch.equal(head.draft_to_target, other.draft_to_target)


# OpenVINO reads the default layers alone.
EXPORTS = [
    (to, flags)
    for to, flags in product(LAYOUTS, ({}, {"draft_vocab_size": 31}, {"eagle_hf": OTHER}))
    if to != "openvino" or "eagle_hf" not in flags
]


@pytest.mark.parametrize("to, flags", EXPORTS, ids=str)
def test_an_exported_head_drafts_as_before(target, tmp_path, to, flags):
    head = tiny_head(target, **flags)
    export_head(head, tmp_path / "out", to, "me/target", target.config)
    again = Eagle3DraftHead.from_pretrained(tmp_path / "out", dtype="auto")
    assert is_same_head(head, again)
    assert again.dtype == head.dtype
    assert other_layers(again.config, target.config) == other_layers(head.config)


@pytest.mark.parametrize(
    "flags",
    [
        {"norm_before_residual": True},
        {"fc_norm": True, "norm_output": True},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}},
    ],
    ids=str,
)
def test_the_speculators_format_keeps_every_variant(target, tmp_path, flags):
    head = tiny_head(target, **flags)
    export_head(head, tmp_path / "out", "speculators", "me/target")
    again = Eagle3DraftHead.from_pretrained(tmp_path / "out", dtype="auto")
    assert is_same_head(head, again)
    assert again.config.rope_parameters == head.config.rope_parameters


@pytest.fixture
def speculators(target):
    """The config of a head in the speculators format."""
    head = tiny_head(target)
    head.tree = TreeConfig("chain", depth=3)
    return speculators_config(head.config, "me/target", target.config)


def test_the_speculators_config_is_what_vllm_reads(speculators):
    assert "model_type" not in speculators
    assert speculators["speculators_model_type"] == "eagle3"
    assert LAYER_IDS_KEY not in speculators
    for flag in ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"):
        assert speculators[flag] is False
    assert speculators["draft_vocab_size"] == 24
    assert speculators["target_hidden_size"] == 32


def test_the_speculators_config_proposes_a_chain_and_names_the_target(speculators):
    plan = speculators["speculators_config"]
    assert plan["algorithm"] == "eagle3"
    assert [method["speculative_tokens"] for method in plan["proposal_methods"]] == [3]
    assert plan["default_proposal_method"] == plan["proposal_methods"][0]["proposal_type"]
    assert plan["verifier"]["name_or_path"] == "me/target"


def test_the_speculators_config_holds_the_whole_layer(speculators):
    layer = speculators["transformer_layer_config"]
    assert layer["model_type"] == "llama"
    assert layer["vocab_size"] == 31
    assert layer["num_hidden_layers"] == 1
    assert layer["num_aux_hidden_states"] == 3
    assert layer["rope_theta"] == layer["rope_parameters"]["rope_theta"] == 10000.0
    assert layer["rope_scaling"] is None
    assert {
        "head_dim",
        "hidden_act",
        "rms_norm_eps",
        "attention_bias",
        "mlp_bias",
        "max_position_embeddings",
        "intermediate_size",
    } <= set(layer)


def test_the_speculators_weights_have_its_names_and_no_map_at_full_vocabulary(target, tmp_path):
    whole = tiny_head(target, draft_vocab_size=31)
    export_head(tiny_head(target), tmp_path / "some", "speculators", "me/target")
    export_head(whole, tmp_path / "all", "speculators", "me/target")
    some = load_file(tmp_path / "some" / "model.safetensors")
    full = load_file(tmp_path / "all" / "model.safetensors")
    assert "layers.0.self_attn.q_proj.weight" in some
    assert not any(name.startswith("midlayer") for name in some)
    assert some["d2t"].dtype == torch.int64
    assert some["t2d"].sum() == 24
    assert set(some) - set(full) == {"d2t", "t2d"}


@pytest.mark.parametrize("to", [engine.key for engine in SERVERS])
def test_a_head_of_the_default_layers_is_exported_as_it_is_saved(target, tmp_path, to):
    head = tiny_head(target)
    head.save_pretrained(tmp_path / "saved")
    export_head(head, tmp_path / "out", to)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "saved" / file).read_bytes()


@pytest.mark.parametrize("to", ["vllm", "llamacpp", "speculators"])
def test_other_layers_stand_at_the_top_as_they_are(target, to):
    config = layout_config(tiny_head(target, eagle_hf=OTHER).config, to, "me/target")
    assert config[LAYER_IDS_KEY] == [1, 3, 6]
    assert LAYER_IDS_KEY not in config.get("eagle_config", {})


def test_other_layers_stand_one_lower_in_sglangs_place(target, tmp_path):
    export_head(tiny_head(target, eagle_hf=OTHER), tmp_path / "out", "sglang", target=target.config)
    written = read_config(tmp_path / "out")
    assert LAYER_IDS_KEY not in written
    assert written["eagle_config"] == {"use_aux_hidden_state": True, LAYER_IDS_KEY: [0, 2, 5]}


@pytest.mark.parametrize(
    "ids, architecture, expected",
    [
        ([2, 3, 6], "DeepseekV3ForCausalLM", [2, 3, 6]),
        ([2, 3, 6], "Glm4MoeLiteForCausalLM", [2, 3, 6]),
        ([2, 3, 6], "GptOssForCausalLM", [1, 2, 5]),
    ],
)
def test_sglang_counts_by_the_kind_of_target(target, ids, architecture, expected):
    config = tiny_head(target, eagle_hf={"aux_layer_ids": ids}).config
    kind = tiny_target().config
    kind.architectures = [architecture]
    written = engine_layer_ids(config, SGLANG, kind)
    assert written == {"eagle_config": {LAYER_IDS_KEY: expected}}


@pytest.mark.parametrize(
    "ids, architecture",
    [([1, 3, 6], "DeepseekV3ForCausalLM"), ([0, 3, 6], "LlamaForCausalLM")],
)
def test_what_sglang_cannot_count_is_refused(target, ids, architecture):
    config = tiny_head(target, eagle_hf={"aux_layer_ids": ids}).config
    kind = tiny_target().config
    kind.architectures = [architecture]
    with pytest.raises(ValueError, match="SGLang .*serve it with vLLM or llama.cpp$"):
        engine_layer_ids(config, SGLANG, kind)


def test_layers_of_a_head_that_does_not_know_its_target_are_compared_with_the_target_given(target):
    config = tiny_head(target).config
    config.eagle_hf = {"aux_layer_ids": [2, 3, 4]}
    assert other_layers(config) == [2, 3, 4]
    assert other_layers(config, target.config) is None


@pytest.mark.parametrize(
    "to, settings, what",
    [
        (
            "sglang",
            {"norm_before_residual": True},
            "norm_before_residual and would draft garbage; serve it with vLLM or llama.cpp$",
        ),
        (
            "llamacpp",
            {"fc_norm": True, "norm_output": True},
            "fc_norm, norm_output and would draft garbage; serve it with vLLM or SGLang$",
        ),
        ("openvino", {"norm_output": True}, "serve it with vLLM or SGLang$"),
        ("vllm", {"hidden_act": "gelu"}, "hidden_act=gelu"),
        (
            "llamacpp",
            {"num_aux_hidden_states": 2, "eagle_hf": {"aux_layer_ids": [2, 4]}},
            "num_aux_hidden_states=2",
        ),
        ("vllm", {"eagle_hf": {"aux_layer_ids": [6, 1, 3]}}, "ascending"),
        ("openvino", {"eagle_hf": OTHER}, "reads the layers"),
        ("sglang", {"eagle_hf": OTHER}, "name the target"),
        ("speculators", {}, "names the target"),
        ("tgi", {}, "no layout 'tgi'"),
    ],
)
def test_what_an_engine_would_get_wrong_is_refused_and_nothing_written(
    target, tmp_path, to, settings, what
):
    with pytest.raises(ValueError, match=what):
        export_head(tiny_head(target, **settings), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def lose_a_weight(head):
    head.fc.weight.data[0].fill_(float("nan"))


def invert_t2d(head):
    head.t2d.logical_not_()


def leave_the_vocabulary(head):
    head.d2t.add_(30)


@pytest.mark.parametrize(
    "change, what",
    [
        (lose_a_weight, "1 weights hold NaN or infinity, fc.weight first"),
        (invert_t2d, "d2t and t2d name different tokens"),
        (leave_the_vocabulary, "the target has ids 0..30"),
    ],
)
def test_broken_weights_are_refused(target, tmp_path, change, what):
    head = tiny_head(target)
    change(head)
    with pytest.raises(ValueError, match=what):
        export_head(head, tmp_path / "out", "vllm")


def test_another_target_is_refused(target, tmp_path):
    other = tiny_target(vocab_size=40, layers=9).config
    refusal = "its vocab_size is 40, not 31; its num_hidden_layers is 9, not 7"
    with pytest.raises(ValueError, match=refusal):
        export_head(tiny_head(target), tmp_path / "out", "vllm", target=other)


def test_nothing_is_overwritten(target, tmp_path):
    export_head(tiny_head(target), tmp_path, "vllm")
    with pytest.raises(ValueError, match="already holds config.json and model.safetensors"):
        export_head(tiny_head(target), tmp_path, "speculators", "me/target")


def test_the_target_is_the_one_that_the_folder_names(target, tmp_path):
    head = tiny_head(target)
    plain = tmp_path / "plain"
    head.save_pretrained(plain)
    with pytest.raises(ValueError, match="names no target; name it: --target"):
        named_target(plain)
    (plain / "README.md").write_text("---\nbase_model: me/target\n---\n# A head\n")
    assert named_target(plain) == "me/target"
    export_head(head, tmp_path / "exported", "speculators", "their/target")
    assert named_target(tmp_path / "exported") == "their/target"
