"""Adapters of PEFT while drafting: by row, by token, disabled, or refused by name."""

import peft
import pytest
import torch
from drafting import plain_and_drafted
from peft import LoraConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from tiny import left_padded, tiny_head, tiny_target

from eagle_hf import SelfSpeculation, WindowedDraft
from eagle_hf.decoding.checks import check_target

PROJECTIONS = ["q_proj", "v_proj"]
INVOCATION = [4, 5]  # tokens from which on an activated LoRA works
NAMES = ["head", "itself", "model"]


def lora(**settings) -> LoraConfig:
    settings = {"target_modules": PROJECTIONS, "init_lora_weights": False} | settings
    return LoraConfig(**settings)


def with_adapters(config: peft.PeftConfig, names: tuple[str, ...] = ("a",)) -> PeftModel:
    """The tiny target with an adapter of this config under each name, each with its own weights."""
    model = get_peft_model(tiny_target(), config, adapter_name=names[0])
    for seed, name in enumerate(names[1:]):
        torch.manual_seed(seed)
        model.add_adapter(name, config)
    return model.eval()


@pytest.fixture
def assistants(head, small_model):
    return {
        "head": head,
        "itself": SelfSpeculation(2, 9),
        "model": WindowedDraft(small_model, sinks=2, window=9),
    }


@pytest.mark.parametrize("name", NAMES)
def test_rows_keep_their_own_adapter_when_others_end(assistants, name):
    model = with_adapters(lora(), ("a", "b"))
    adapters = ["a", "__base__", "b"]
    settings = dict(max_new_tokens=40, eos_token_id=[2, 7], pad_token_id=0)
    inputs = left_padded(model, [5, 7, 3])
    plain, fast = plain_and_drafted(
        model, assistants[name], inputs, adapter_names=adapters, **settings
    )
    assert torch.equal(plain, fast)
    ends = [row.tolist().count(0) for row in plain]
    assert len(set(ends)) > 1  # rows have left the batch


def test_adapters_of_embeddings_and_saved_modules_follow_the_rows(head):
    config = lora(modules_to_save=["lm_head"], target_modules=["embed_tokens", "q_proj"])
    model = with_adapters(config, ("a", "b"))
    inputs = left_padded(model, [5, 7, 3])
    settings = dict(max_new_tokens=40, eos_token_id=[2, 7], adapter_names=["b", "a", "a"])
    plain, fast = plain_and_drafted(model, head, inputs, **settings)
    assert torch.equal(plain, fast)


def test_tasks_follow_the_rows(assistants):
    config = peft.PolyConfig(
        target_modules=PROJECTIONS, r=4, n_skills=2, n_tasks=2, n_splits=2, init_weights=False
    )
    config.task_type = "CAUSAL_LM"
    model = with_adapters(config)
    settings = dict(max_new_tokens=30, eos_token_id=[2, 7], task_ids=torch.tensor([0, 1, 0]))
    for name in NAMES:
        inputs = left_padded(model, [5, 7, 3])
        plain, fast = plain_and_drafted(model, assistants[name], inputs, **settings)
        assert torch.equal(plain, fast)


@pytest.mark.parametrize("name", NAMES)
def test_an_activated_lora_works_on_every_draft_behind_its_invocation(assistants, name):
    model = with_adapters(lora(alora_invocation_tokens=INVOCATION, task_type="CAUSAL_LM"))
    never = torch.tensor([[0, 7, 8, 9, 10, 11]])
    late = torch.tensor([[7, 8, 9, *INVOCATION, 10]])
    inputs = {"input_ids": torch.cat([late, never])}
    inputs["attention_mask"] = (inputs["input_ids"] > 0).long()
    settings = dict(max_new_tokens=40, eos_token_id=None)
    plain, fast = plain_and_drafted(model, assistants[name], inputs, **settings)
    assert torch.equal(plain, fast)
    with model.disable_adapter():
        base = model.generate(**inputs, **settings)
    assert not torch.equal(plain[0], base[0])  # the adapter says something of its own
    assert torch.equal(plain[1], base[1])


def test_no_hook_stays_on_the_target(head):
    model = with_adapters(lora(), ("a", "b"))
    settings = dict(max_new_tokens=5, adapter_names=["a", "b"])
    model.generate(**left_padded(model, [5, 4]), assistant_model=head, **settings)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("state", ["disabled", "merged"])
def test_disabled_and_merged_adapters_are_served(head, state):
    model = with_adapters(lora())
    inputs = left_padded(model, [5, 7])
    if state == "merged":
        model.merge_adapter()
        plain, fast = plain_and_drafted(model, head, inputs, max_new_tokens=30)
    else:
        with model.disable_adapter():
            plain, fast = plain_and_drafted(model, head, inputs, max_new_tokens=30)
    assert torch.equal(plain, fast)


WHOLE_FORWARDS = {
    "LILY": peft.LilyConfig(target_modules=PROJECTIONS, task_type="CAUSAL_LM"),
    "SHADOW": peft.ShadowConfig(task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", WHOLE_FORWARDS)
def test_an_adapter_that_reads_more_than_tokens_is_refused(head, kind, monkeypatch):
    model = with_adapters(WHOLE_FORWARDS[kind])
    monkeypatch.setattr(model.get_base_model().model, "forward", None)
    with pytest.raises(ValueError, match=f"'a' is of the kind {kind}, which .*; disable it"):
        model.generate(**left_padded(model, [5]), assistant_model=head, max_new_tokens=5)


def test_a_refused_adapter_is_served_while_disabled(head):
    model = with_adapters(WHOLE_FORWARDS["LILY"])
    with model.disable_adapter():
        plain, fast = plain_and_drafted(model, head, left_padded(model, [5]), max_new_tokens=9)
    assert torch.equal(plain, fast)


def test_an_activated_lora_outside_of_generate_is_refused(head):
    model = with_adapters(lora(alora_invocation_tokens=INVOCATION, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="'a' is an activated LoRA"):
        check_target(model, head)
    with model.disable_adapter():
        check_target(model, head)


# What a kind's config needs besides `target_modules` to fit the tiny target.
SETTINGS = {
    "ADALORA": dict(total_step=10),
    "ADAPTION_PROMPT": dict(adapter_len=3, adapter_layers=2),
    "C3A": dict(block_size=16),
    "FOURIERFT": dict(n_frequency=20),
    "IA3": dict(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "MISS": dict(r=8),
    "ROAD": dict(group_size=16),
    "SHIRA": dict(r=2),
    "VBLORA": dict(vector_length=16, num_vectors=8),
    "WAVEFT": dict(n_frequency=20),
}


def disturbed(kind: str) -> PeftModel | None:
    """The tiny target with an adapter of a kind, its weights moved; None where it takes none."""
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = config_class.__dataclass_fields__
    settings = {"target_modules": PROJECTIONS, "num_virtual_tokens": 3} | SETTINGS.get(kind, {})
    settings = {key: value for key, value in settings.items() if key in known}
    generator = torch.Generator().manual_seed(3)
    try:
        model = with_adapters(config_class(task_type="CAUSAL_LM", **settings))
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.data.add_(noise, alpha=0.1)
        model.generate(**left_padded(model, [5]), max_new_tokens=3)
    except Exception:  # it needs another library, other sizes, or is not for language models
        return None
    return model


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING])
def test_every_kind_of_adapter_is_served_or_refused_by_name(kind):
    model = disturbed(kind)
    if model is None:
        pytest.skip(f"an adapter of the kind {kind} does not run on the tiny target by itself")
    inputs = left_padded(model, [5, 7])
    head = tiny_head(tiny_target())
    plain = model.generate(**inputs, max_new_tokens=30)
    try:
        fast = model.generate(**inputs, max_new_tokens=30, assistant_model=head)
    except ValueError as error:
        assert kind in str(error)
    else:
        assert torch.equal(plain, fast)
