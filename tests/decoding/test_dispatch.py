"""generate knows our assistants, wrapped ones too, and serves all others as before the import."""

import subprocess
import sys
from pathlib import Path

import torch
from drafting import plain_and_drafted
from peft import LoraConfig, get_peft_model
from tiny import left_padded, tiny_head, tiny_target
from transformers import GenerationMixin

from eagle_hf.decoding.dispatch import register

OTHER_ASSISTANTS = Path(__file__).with_name("other_assistants.py")


def test_wrapped_heads_are_recognised(target):
    wrapped = get_peft_model(tiny_head(target), LoraConfig(target_modules=["fc", "q_proj"]))
    settings = dict(max_new_tokens=20, eos_token_id=None)
    plain, fast = plain_and_drafted(target, wrapped, left_padded(target, [5]), **settings)
    assert torch.equal(plain, fast)
    assert wrapped.last_run.rounds > 0


def test_a_target_with_an_adapter_is_served(head):
    adapter = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    target = get_peft_model(tiny_target(), adapter).eval()
    settings = dict(max_new_tokens=40, eos_token_id=None)
    plain, fast = plain_and_drafted(target, head, left_padded(target, [5]), **settings)
    assert torch.equal(plain, fast)


def test_registering_twice_changes_nothing():
    def run_nothing(target, assistant, call):
        pass

    decoding = GenerationMixin._assisted_decoding
    validation = GenerationMixin._validate_generation_mode
    register(run_nothing)
    assert decoding == GenerationMixin._assisted_decoding
    assert validation == GenerationMixin._validate_generation_mode


def printed(mode):
    """What the other assistants write, "with" the import of eagle_hf or "without" it."""
    command = [sys.executable, str(OTHER_ASSISTANTS), mode]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_other_assistants_behave_as_without_the_import():
    ours = printed("with")
    assert ours == printed("without")
    assert ours.count("\n") == 7
