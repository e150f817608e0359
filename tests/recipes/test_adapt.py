"""recipes/adapt.py on a tiny target: prompts stay held out, a rerun goes on."""

import json
import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from tiny import tiny_head, tiny_target, word_tokenizer
from transformers import LlamaForCausalLM

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.training import merge_adapter

RECIPE = Path(__file__).parents[2] / "recipes" / "adapt.py"


@pytest.fixture
def folder(tmp_path):
    """A tiny target with an adapter, a head, and prompts of which two are asked twice."""
    target = tiny_target(dtype=torch.float32)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    head = tiny_head(target)
    head.tree = TreeConfig(depth=2, top_k=3, nodes=4)
    head.to(torch.bfloat16).save_pretrained(tmp_path / "head")
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(target, lora).save_pretrained(tmp_path / "adapter")
    turns = [f"w{5 + number} w{7 + number % 7}" for number in range(12)]
    lines = []
    for number, turn in enumerate(turns + turns[:2]):
        row = {"id": str(number), "turns": [turn], "category": "words"}
        lines.append(json.dumps(row) + "\n")
    (tmp_path / "asked.jsonl").write_text("".join(lines))
    config = dict(
        target="target",
        head="head",
        prompt_files=["asked.jsonl"],
        max_new_tokens=12,
        target_dtype="float32",
        batch_size=4,
        output_dir="out",
        eval_prompts=3,
        per_device_train_batch_size=4,
        ttt_length=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        save_steps=2,
        disable_tqdm=True,
    )
    (tmp_path / "adapt.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def run(folder, *flags, status=0):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, RECIPE, "--config", "adapt.yaml", *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout if status == 0 else done.stderr


@pytest.mark.slow
def test_tau_is_measured_before_and_after_and_a_rerun_goes_on(folder):
    out = run(folder, "--max_steps", "2", "--lora_rank", "4")
    first = json.loads(out.splitlines()[-1])
    assert first["steps"] == 2
    assert 0 < first["held_out"] <= 3
    assert "| tau | " in out
    assert "trained: 10 answered now" in out
    assert first["loss_after"] < first["loss_before"]
    out = run(folder, "--max_steps", "4", "--lora_rank", "4")
    second = json.loads(out.splitlines()[-1])
    assert second["steps"] == 4
    assert "trained: 0 answered now, 10 before" in out
    assert second["tau_before"] == first["tau_before"]
    assert second["loss_after"] != first["loss_after"]
    assert (folder / "out" / "checkpoint-2" / "adapter_model.safetensors").is_file()
    assert (folder / "out" / "checkpoint-4").is_dir()
    head = Eagle3DraftHead.from_pretrained(folder / "out" / "head")
    old = Eagle3DraftHead.from_pretrained(folder / "head", dtype=torch.float32)
    assert torch.equal(head.draft_to_target, old.draft_to_target)
    assert head.tree == old.tree
    assert re.search(r"the adapter is in out/adapter: 0\.0\d MB", out)
    merged = merge_adapter(old, folder / "out" / "adapter")
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, head.state_dict()[name]), name
    old.load_adapter(folder / "out" / "adapter", adapter_name="words")
    made_by = json.loads((folder / "out" / "run.json").read_text())
    assert made_by["settings"]["script"]["lora_rank"] == 4


def test_a_head_is_adapted_to_a_target_with_an_adapter(folder):
    plain = json.loads(run(folder, "--max_steps", "2", "--output_dir", "plain").splitlines()[-1])
    tuned = json.loads(run(folder, "--max_steps", "2", "--adapter", "adapter").splitlines()[-1])
    assert tuned["loss_before"] != pytest.approx(plain["loss_before"], rel=1e-3)
    # all weights were trained
    head = Eagle3DraftHead.from_pretrained(folder / "out" / "head")
    old = Eagle3DraftHead.from_pretrained(folder / "head")
    assert not torch.equal(head.norm.weight, old.norm.weight.float())


@pytest.mark.slow
def test_a_head_follows_an_adapter_that_grew_the_target(folder):
    base = LlamaForCausalLM.from_pretrained(folder / "target")
    base.resize_token_embeddings(33)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(folder / "grown")
    word_tokenizer(33).save_pretrained(folder / "grown")
    flags = ["--max_steps", "2", "--adapter", "grown"]
    assert "vocab_size=33" in run(folder, *flags, status=1)
    metrics = json.loads(run(folder, *flags, "--vocab_size", "33").splitlines()[-1])
    assert metrics["steps"] == 2
    head = Eagle3DraftHead.from_pretrained(folder / "out" / "head")
    old = Eagle3DraftHead.from_pretrained(folder / "head")
    assert head.config.vocab_size == 33
    assert torch.equal(head.draft_to_target, old.draft_to_target)


@pytest.fixture(scope="module")
def recipe():
    spec = util.spec_from_file_location("adapt", RECIPE)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_held_out_prompts_are_never_trained_on(folder, recipe):
    arguments = recipe.AdaptArguments(
        target="target", head="head", prompt_files=[str(folder / "asked.jsonl")]
    )
    prompts = recipe.split_prompts(arguments, 3)
    assert [prompt["id"] for prompt in prompts["held_out"]] == ["0", "4", "9"]
    # 12 asks what 0 asks
    expected = [str(number) for number in (1, 2, 3, 5, 6, 7, 8, 10, 11, 13)]
    assert [prompt["id"] for prompt in prompts["trained"]] == expected
    for count in (0, 14):
        with pytest.raises(ValueError, match=f"eval_prompts is {count} and there are 14 prompts"):
            recipe.split_prompts(arguments, count)


def test_answers_to_other_prompts_are_not_taken_over(folder, recipe):
    files = [str(folder / "asked.jsonl")]
    arguments = recipe.AdaptArguments(target="", head="", prompt_files=files)
    prompts = recipe.split_prompts(arguments, 3)
    recipe.remember(folder / "kept.jsonl", prompts["trained"])
    recipe.remember(folder / "kept.jsonl", prompts["trained"])
    with pytest.raises(ValueError, match="holds other prompts"):
        recipe.remember(folder / "kept.jsonl", prompts["trained"] + prompts["held_out"][:1])
