"""Adapters that are merged, and adapters that do not fit."""

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import Eagle3DraftHead, load_target
from eagle_hf.training import merge_adapter
from eagle_hf.training.merging import merged

LORA = dict(r=4, target_modules=["fc", "q_proj", "down_proj"], init_lora_weights=False)
QKV = ["q_proj", "k_proj", "v_proj"]


def test_a_bf16_head_is_merged_in_float32_and_rounded_once(target, tmp_path):
    def bf16_head():
        return tiny_head(target).to(torch.bfloat16)

    get_peft_model(bf16_head(), LoraConfig(**LORA)).save_pretrained(tmp_path)
    head = bf16_head()
    out = merge_adapter(head, tmp_path)
    exact = merge_adapter(bf16_head().float(), tmp_path)
    assert out.dtype == torch.bfloat16
    assert exact.dtype == torch.float32
    theirs = exact.state_dict()
    for name, ours in out.state_dict().items():
        assert torch.equal(ours, theirs[name].to(ours.dtype)), name
    assert torch.equal(out.rotary_emb.inv_freq, head.rotary_emb.inv_freq)


def test_a_folder_that_does_not_exist_is_no_adapter(head, tmp_path):
    problem = "no-such-folder cannot be laid .*Can't find 'adapter_config.json'"
    with pytest.raises(ValueError, match=problem):
        merge_adapter(head, tmp_path / "no-such-folder")


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
@pytest.mark.parametrize(
    "modules, width",
    [(["q_proj"], 32), (["embed_tokens"], 32), (["q_proj", "down_proj"], 48)],
    ids=str,
)
def test_an_adapter_of_something_else_is_refused(head, tmp_path, task, modules, width):
    other = tiny_target(dtype=torch.float32, hidden_size=width)
    if task is None and width != 32:
        other = tiny_head(other)
    config = LoraConfig(task_type=task, target_modules=modules, init_lora_weights=False)
    get_peft_model(other, config).save_pretrained(tmp_path)
    before = list(head.state_dict())
    with pytest.raises(ValueError, match="trained on this very model"):
        merge_adapter(head, tmp_path)
    assert list(head.state_dict()) == before


def test_an_adapter_that_is_not_a_number_is_refused():
    wrapped = get_peft_model(tiny_head(tiny_target()), LoraConfig(**LORA))
    learnt = [parameter for name, parameter in wrapped.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        learnt[0].fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        merged(wrapped)


def test_a_target_is_not_opened_with_an_adapter_of_another(tmp_path):
    """PEFT warns of weights that are missing and would go on with the bare target."""
    tiny_target(layers=8, dtype=torch.float32).save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    other = get_peft_model(tiny_target(dtype=torch.float32), LoraConfig(target_modules=["q_proj"]))
    other.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="missing adapter keys.*layers.7"):
        load_target(tmp_path / "target", adapter=tmp_path / "adapter")


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=QKV, lora_bias=True),
        IA3Config(target_modules=QKV, feedforward_modules=[]),
    ],
    ids=["lora", "ia3"],
)
def test_adapters_with_constant_parts_unroll_as_their_merged_head_does(target, config):
    """TTT passes add the projections' two shares up: a bias must count once."""
    generator = torch.Generator().manual_seed(0)
    model = get_peft_model(tiny_head(target, attention_bias=True), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    embeddings = torch.randn(1, 9, 32, generator=generator)
    aux = torch.randn(1, 9, 96, generator=generator)
    ours = model(embeddings, aux, ttt_length=3)
    theirs = merged(model)(embeddings, aux, ttt_length=3)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()


def test_an_adapter_is_not_opened_as_a_head(target, tmp_path):
    model = get_peft_model(tiny_head(target), LoraConfig(r=2, target_modules=["fc"]))
    model.save_pretrained(tmp_path / "adapter")
    problem = "holds a PEFT adapter, not a head; merge it: eagle-hf merge"
    with pytest.raises(ValueError, match=problem):
        Eagle3DraftHead.from_pretrained(tmp_path / "adapter")
