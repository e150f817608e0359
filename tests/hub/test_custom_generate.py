"""custom_generate: the target's own tokens with transformers alone, or a refusal."""

import ast
import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import letter_tokenizer, tiny_head, tiny_target, word_tokenizer
from transformers import (
    GenerationConfig,
    MaxLengthCriteria,
    MistralConfig,
    MistralForCausalLM,
    TextStreamer,
)

from eagle_hf import TreeConfig
from eagle_hf.hub.publish import OWN_GENERATE, add_custom_generate

PROMPT = torch.tensor([[5, 9, 11, 4, 20]])


@pytest.fixture(autouse=True)
def own_module_cache(monkeypatch, tmp_path):
    """transformers copies remote code into a cache of modules; here into one of the test's own."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )


@pytest.fixture
def publish(tmp_path):
    """publish(head) -> arguments of generate that decode with it by its custom_generate."""

    def save(head):
        head.save_pretrained(tmp_path / "head")
        add_custom_generate(tmp_path / "head")
        return {"custom_generate": str(tmp_path / "head"), "trust_remote_code": True}

    return save


def count_forwards(target, **assistant):
    """(40 greedy tokens, how many forwards of the target they took)."""
    forwards = []

    def note_forward(*_):
        forwards.append(1)

    first_layer = target.get_decoder().layers[0]
    counter = first_layer.register_forward_pre_hook(note_forward)
    tokens = target.generate(PROMPT, max_new_tokens=40, eos_token_id=None, **assistant)
    counter.remove()
    return tokens, len(forwards)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"fc_norm": True},
        {"norm_output": True},
        {"norm_before_residual": True},
        {"draft_vocab_size": 31},
        {"eagle_hf": {"aux_layer_ids": [1, 2, 6]}},
    ],
    ids=str,
)
def test_greedy_tokens_and_drafts_are_those_of_eagle_hf(target, publish, flags):
    head = tiny_head(target, **flags)
    head.tree = TreeConfig("chain", depth=3)
    tokens, forwards = count_forwards(target, **publish(head))
    plain_tokens, _ = count_forwards(target)
    _, own_forwards = count_forwards(target, assistant_model=head)
    assert torch.equal(tokens, plain_tokens)
    assert forwards == own_forwards


def test_drafts_of_a_trained_head_are_accepted(target, trained_head, publish):
    head = deepcopy(trained_head)
    head.tree = TreeConfig("chain", depth=4)
    tokens, forwards = count_forwards(target, **publish(head))
    plain_tokens, _ = count_forwards(target)
    _, own_forwards = count_forwards(target, assistant_model=head)
    assert torch.equal(tokens, plain_tokens)
    assert forwards == own_forwards
    assert forwards < 40


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6, "top_k": 5},
        {"repetition_penalty": 1.3, "top_p": 0.9},
        {"eos_token_id": [7, 12]},
    ],
    ids=str,
)
def test_sampled_tokens_are_those_of_the_same_seed(target, trained_head, publish, settings):
    assistant = publish(trained_head)
    sampling = dict(do_sample=True, max_new_tokens=30, **settings)
    for seed in range(3):
        torch.manual_seed(seed)
        plain = target.generate(PROMPT, **sampling)
        torch.manual_seed(seed)
        assert torch.equal(target.generate(PROMPT, **sampling, **assistant), plain)


def test_a_target_with_a_sliding_window_is_served(publish):
    config = MistralConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.25,
    )
    torch.manual_seed(0)
    target = MistralForCausalLM(config).double().eval()
    tokens, _ = count_forwards(target, **publish(tiny_head(target)))
    plain_tokens, _ = count_forwards(target)
    assert torch.equal(tokens, plain_tokens)


@pytest.mark.parametrize("length", [1, 7])
def test_it_streams_and_takes_another_length_of_chain(
    target, trained_head, publish, capsys, length
):
    settings = dict(max_new_tokens=10, streamer=TextStreamer(word_tokenizer()))
    plain = target.generate(PROMPT, **settings)
    expected = capsys.readouterr().out
    tokens = target.generate(PROMPT, draft_tokens=length, **settings, **publish(trained_head))
    assert torch.equal(tokens, plain)
    assert capsys.readouterr().out == expected


def stopped(target, **settings):
    """40 greedy tokens, but for a stop string that they hold."""
    tokenizer = letter_tokenizer()
    alone = target.generate(PROMPT, max_new_tokens=40, eos_token_id=None)
    end = tokenizer.decode(alone[0, 25:27])
    settings = {"max_new_tokens": 40, "eos_token_id": None} | settings
    return {"stop_strings": [end], "tokenizer": tokenizer} | settings


def test_stop_strings_end_the_text(target, trained_head, publish):
    settings = stopped(target)
    plain = target.generate(PROMPT, **settings)
    assert plain.shape[1] < 45
    assert torch.equal(target.generate(PROMPT, **settings, **publish(trained_head)), plain)


def test_stop_strings_of_a_config_and_criteria_of_the_caller_hold_together(
    target, trained_head, publish
):
    settings = stopped(target)
    strings = settings.pop("stop_strings")
    tokenizer = settings.pop("tokenizer")
    config = GenerationConfig(stop_strings=strings, **settings)
    for limit in (12, 45):
        call = dict(generation_config=config, tokenizer=tokenizer)
        call["stopping_criteria"] = [MaxLengthCriteria(limit)]
        plain = target.generate(PROMPT, **call)
        assert torch.equal(target.generate(PROMPT, **call, **publish(trained_head)), plain)
    assert config.stop_strings == strings


def test_stop_strings_that_belong_to_the_model_are_refused(head, publish):
    target = tiny_target()
    target.generation_config.stop_strings = ["a"]
    with pytest.raises(ValueError, match="the model's generation_config has stop_strings"):
        target.generate(PROMPT, tokenizer=letter_tokenizer(), **publish(head))


def test_states_of_the_target_that_it_cannot_follow_are_refused(head, publish):
    adapter = LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[4]
    )
    activated = get_peft_model(tiny_target(), adapter)
    with pytest.raises(ValueError, match="without an activated LoRA"):
        activated.generate(input_ids=PROMPT, max_new_tokens=4, **publish(head))
    training = tiny_target().train()
    training.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="needs eval mode"):
        training.generate(PROMPT, max_new_tokens=4, **publish(head))


def test_without_the_flag_no_code_runs(target, head, publish):
    with pytest.raises(ValueError, match="trust_remote_code"):
        target.generate(PROMPT, **publish(head) | {"trust_remote_code": False})


@pytest.mark.parametrize(
    "call, needs",
    [
        (dict(input_ids=PROMPT.expand(2, -1)), "one prompt at a time"),
        (dict(num_beams=2), "one prompt at a time"),
        (dict(attention_mask=torch.tensor([[0, 1, 1, 1, 1]])), "without padding"),
        (dict(position_ids=torch.arange(3, 8)[None]), "position_ids left out"),
        (dict(return_dict_in_generate=True), "return_dict_in_generate=False"),
        (dict(guidance_scale=2.0), "guidance_scale left out"),
        (dict(assistant_model="head"), "choose one of the two"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_refused(target, head, publish, call, needs):
    settings = {"input_ids": PROMPT, "max_new_tokens": 4} | publish(head)
    with pytest.raises(ValueError, match=needs):
        target.generate(**settings | call)


@pytest.mark.parametrize(
    "key, value, needs",
    [
        ("vocab_size", 99, "the head's own target"),
        ("norm_before_fc", True, "norm_before_fc"),
        ("draft_vocab_size", 20, "size mismatch"),
    ],
)
def test_a_head_of_another_target_or_kind_is_refused(target, head, publish, key, value, needs):
    assistant = publish(head)
    file = Path(assistant["custom_generate"], "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises((ValueError, RuntimeError), match=needs):
        target.generate(PROMPT, max_new_tokens=4, **assistant)


def test_it_needs_no_eagle_hf():
    imported = set()
    for node in ast.walk(ast.parse(OWN_GENERATE.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            imported.update(alias.name.split(".")[0] for alias in node.names)
    assert imported <= {
        "copy",
        "functools",
        "importlib",
        "inspect",
        "json",
        "os",
        "sys",
        "contextlib",
        "torch",
        "safetensors",
        "transformers",
    }
