"""Adapters of a head on disk: what is loaded, saved, deleted and refused."""

import json

import pytest
import torch
from head_adapters import ALL_LAYERS, load_adapters, save_adapter
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3DraftHead
from eagle_hf.decoding.assistants import as_assistant
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.training import merge_adapter


@pytest.fixture
def head(target):
    return tiny_head(target)


@pytest.fixture
def two(head, tmp_path):
    """The head with the adapters "code" and "chat"."""
    return load_adapters(head, tmp_path)


def test_a_head_with_adapters_is_saved_as_the_head_alone(target, two, tmp_path):
    tiny_head(target).save_pretrained(tmp_path / "alone")
    two.save_pretrained(tmp_path / "saved")
    files = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == files
    for name in files:
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_loading_changes_nothing_of_the_head(target, two):
    alone = tiny_head(target)
    assert list(two.state_dict()) == list(alone.state_dict())
    assert all(parameter.requires_grad for parameter in two.parameters())
    assert weights_fingerprint(two) == weights_fingerprint(alone)
    as_assistant(two.with_adapter("code"))
    as_assistant(two.with_adapter("chat"))
    assert all(parameter.requires_grad for parameter in two.parameters())
    for name, tensor in alone.state_dict().items():
        assert torch.equal(two.state_dict()[name], tensor)


def test_the_copies_share_the_heads_memory(two):
    laid = as_assistant(two.with_adapter("code")).head
    assert laid.fc.base_layer.weight.data_ptr() == two.fc.weight.data_ptr()
    assert as_assistant(two.with_adapter("code")).head is laid


def test_an_adapter_is_saved_alone_and_loaded_again(target, two, tmp_path):
    two.save_adapter(tmp_path / "again", "code")
    saved = load_file(tmp_path / "again" / "adapter_model.safetensors")
    head_bytes = sum(weight.nbytes for weight in two.parameters())
    assert sum(weight.nbytes for weight in saved.values()) < head_bytes
    other = tiny_head(target)
    other.load_adapter(tmp_path / "again")
    assert other.adapters.names == ("default",)
    ours = as_assistant(other.with_adapter("default")).head.state_dict()
    theirs = as_assistant(two.with_adapter("code")).head.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_a_saved_adapter_is_merged_as_the_one_it_was(target, two, tmp_path):
    two.save_adapter(tmp_path / "again", "chat")
    ours = merge_adapter(tiny_head(target), tmp_path / "again").state_dict()
    theirs = merge_adapter(tiny_head(target), tmp_path / "chat").state_dict()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_an_adapter_is_not_saved_into_a_heads_folder(two, tmp_path):
    two.save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="holds config.json and model.safetensors of a model"):
        two.save_adapter(tmp_path / "head", "code")


def test_a_deleted_adapter_frees_its_name(two, tmp_path):
    two.delete_adapter("code")
    assert two.adapters.names == ("chat",)
    two.load_adapter(tmp_path / "chat", adapter_name="code")
    assert two.adapters.names == ("chat", "code")
    laid = as_assistant(two.with_adapter("code")).head
    assert laid.lm_head is not None and not hasattr(laid.lm_head, "lora_A")  # chat's layers
    with pytest.raises(ValueError, match="no adapter 'other'"):
        two.delete_adapter(["chat", "other"])
    assert two.adapters.names == ("chat", "code")
    two.delete_adapter(["chat", "code"])
    assert two.adapters.names == ()


@pytest.mark.parametrize("name", ["code.v2", "fc", "lora_A", "default", "weight"])
def test_any_name_can_be_given(head, tmp_path, name):
    head.load_adapter(save_adapter(tmp_path, ["fc"]), adapter_name=name)
    assert as_assistant(head.with_adapter(name)).head.fc.active_adapters == ["adapter_0"]


@pytest.mark.parametrize("name", ["", "__base__"])
def test_names_with_another_meaning_are_refused(head, tmp_path, name):
    with pytest.raises(ValueError, match="give it another name"):
        head.load_adapter(tmp_path, adapter_name=name)


def test_a_name_that_is_taken_is_refused(two, tmp_path):
    with pytest.raises(ValueError, match="'code' is loaded already; .*delete_adapter\\('code'\\)"):
        two.load_adapter(tmp_path / "code", adapter_name="code")


@pytest.mark.parametrize("names", ["other", ["code", "other"], [None, "other"]])
def test_an_unknown_name_is_refused_with_those_that_are_loaded(two, names):
    problem = "no adapter 'other' on this head \\(loaded: 'code', 'chat'\\); load it"
    with pytest.raises(ValueError, match=problem):
        two.with_adapter(names)
    with pytest.raises(ValueError, match=problem):
        two.save_adapter("never", "other")


def test_a_folder_without_an_adapter_is_refused(head, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="is no adapter .*; give a folder that PEFT saved"):
            head.load_adapter(folder)
    assert head.adapters.names == ()


def test_an_adapter_of_a_head_of_other_shapes_is_refused(head, tmp_path):
    other = tiny_head(tiny_target(hidden_size=48))
    save_adapter(tmp_path, ["q_proj", "fc"], head=other)
    problem = "cannot be laid over this head \\(its .* is .* and this head needs .*; give an"
    with pytest.raises(ValueError, match=problem):
        head.load_adapter(tmp_path)
    assert head.adapters.names == ()


def test_an_adapter_of_a_target_is_refused(head, tmp_path):
    save_adapter(tmp_path, ["q_proj"], head=tiny_target())
    with pytest.raises(ValueError, match="cannot be laid over this head \\(it lacks .*q_proj"):
        head.load_adapter(tmp_path)


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_an_adapter_whose_weights_do_not_match_is_refused(head, tmp_path, change):
    file = save_adapter(tmp_path, ["fc", "q_proj"]) / "adapter_model.safetensors"
    weights = load_file(file)
    if change == "missing":
        del weights["base_model.model.fc.lora_A.weight"]
        problem = "it lacks base_model.model.fc.lora_A.weight"
    else:
        weights["base_model.model.v_proj.lora_A.weight"] = torch.zeros(4, 64)
        problem = "its base_model.model.v_proj.lora_A.weight has no place"
    save_file(weights, file)
    with pytest.raises(ValueError, match=problem):
        head.load_adapter(tmp_path)


def test_a_damaged_file_is_refused(head, tmp_path):
    file = save_adapter(tmp_path, ["fc"]) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no adapter"):
        head.load_adapter(tmp_path)


def test_the_lm_head_that_peft_adds_must_be_the_heads(head, tmp_path):
    """PEFT saves the LM head's own weights beside its adapter."""
    file = save_adapter(tmp_path, ["lm_head"]) / "adapter_model.safetensors"
    assert "base_model.model.lm_head.base_layer.weight" in load_file(file)
    head.load_adapter(tmp_path)
    with torch.no_grad():
        head.lm_head.weight[3, 3] += 1
    before = head.lm_head.weight.clone()
    with pytest.raises(ValueError, match="holds a .*lm_head.* that is not this head's"):
        head.load_adapter(tmp_path, adapter_name="other")
    assert torch.equal(head.lm_head.weight, before)


def test_an_adapter_that_trains_the_heads_own_biases_is_refused(target, tmp_path):
    save_adapter(
        tmp_path, ["q_proj"], head=tiny_head(target, attention_bias=True), bias="lora_only"
    )
    head = tiny_head(target, attention_bias=True)
    before = head.midlayer.self_attn.q_proj.bias.clone()
    with pytest.raises(
        ValueError, match="bias='lora_only' and trains the head's own biases; merge"
    ):
        head.load_adapter(tmp_path)
    assert torch.equal(head.midlayer.self_attn.q_proj.bias, before)


@pytest.mark.parametrize(
    "config, kind",
    [
        (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), "IA3"),
        (LoraConfig(target_modules=["fc"], alora_invocation_tokens=[3]), "activated LoRA"),
    ],
    ids=["ia3", "alora"],
)
def test_adapters_that_are_no_plain_lora_are_refused(head, tmp_path, config, kind):
    config.task_type = "CAUSAL_LM" if kind != "IA3" else None
    folder = tmp_path / "adapter"
    if kind == "IA3":
        get_peft_model(tiny_head(tiny_target()), config).save_pretrained(folder)
    else:
        save_adapter(folder, ["fc"])
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"alora_invocation_tokens": [3]}))
    with pytest.raises(ValueError, match=f"of the kind {kind}, and heads draft with LoRA alone"):
        head.load_adapter(folder)


def test_a_dora_drafts_by_name_and_not_beside_others(target, head, tmp_path):
    save_adapter(tmp_path / "dora", ["fc", "q_proj"], use_dora=True)
    head.load_adapter(tmp_path / "dora", adapter_name="dora")
    ours = as_assistant(head.with_adapter("dora")).head
    theirs = merge_adapter(tiny_head(target), tmp_path / "dora")
    states = torch.randn(1, 3, 96, dtype=torch.float64)
    torch.testing.assert_close(ours.fuse(states), theirs.fuse(states), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="'dora' cannot share a batch .*: it is a DoRA"):
        as_assistant(head.with_adapter(["dora", None])).check(target)


def test_a_pissa_leaves_the_heads_own_weights_alone(target, tmp_path):
    head = tiny_head(target).float()
    other = tiny_head(target).float()
    save_adapter(tmp_path / "pissa", ["fc"], head=other, init_lora_weights="pissa")
    before = head.fc.weight.clone()
    head.load_adapter(tmp_path / "pissa", adapter_name="pissa")
    ours = as_assistant(head.with_adapter("pissa")).head
    theirs = merge_adapter(tiny_head(target).float(), tmp_path / "pissa")
    states = torch.randn(1, 3, 96)
    torch.testing.assert_close(ours.fuse(states), theirs.fuse(states), rtol=1e-5, atol=1e-5)
    assert torch.equal(head.fc.weight, before)
    with pytest.raises(ValueError, match="init_lora_weights='pissa', which changes the head's"):
        as_assistant(head.with_adapter(["pissa", None])).check(target)


def test_switching_for_all_calls_is_refused(two):
    for method in (two.set_adapter, two.enable_adapters, two.disable_adapters):
        with pytest.raises(ValueError, match="chosen for every call .*head.with_adapter"):
            method("code")
    with pytest.raises(ValueError, match="made by training"):
        two.add_adapter(LoraConfig(target_modules=["fc"]))


def test_a_head_inside_a_peft_model_takes_no_adapters(head, tmp_path):
    save_adapter(tmp_path, ["fc"])
    get_peft_model(head, LoraConfig(target_modules=ALL_LAYERS))
    with pytest.raises(ValueError, match="the head is inside a PeftModel"):
        head.load_adapter(tmp_path)


def test_a_head_without_adapters_opens_what_was_saved_with_some(two, tmp_path):
    two.save_pretrained(tmp_path / "saved")
    opened = Eagle3DraftHead.from_pretrained(tmp_path / "saved")
    assert opened.adapters.names == ()
    opened.load_adapter(tmp_path / "code", adapter_name="code")
    assert opened.adapters.names == ("code",)
