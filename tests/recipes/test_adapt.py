"""recipes/adapt.py on a tiny target: held-out prompts stay held out, a rerun goes on, the head is plain."""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import Eagle3DraftHead, TreeConfig

RECIPE = Path(__file__).parents[2] / "recipes" / "adapt.py"


@pytest.fixture
def folder(tmp_path):
    """A tiny target with a tokenizer and an adapter, a head for it, and prompts of which two are asked twice."""
    target = tiny_target(dtype=torch.float32)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    head = tiny_head(target)
    head.tree = TreeConfig(depth=2, top_k=3, nodes=4)
    head.to(torch.bfloat16).save_pretrained(tmp_path / "head")
    get_peft_model(
        target, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    ).save_pretrained(tmp_path / "adapter")
    turns = [f"w{5 + i} w{7 + i % 7}" for i in range(12)]
    rows = [
        {"id": str(i), "turns": [turn], "category": "words"}
        for i, turn in enumerate(turns + turns[:2])
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
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
    assert (
        first["steps"] == 2
        and 0 < first["held_out"] <= 3
        and "| tau | " in out
        and "trained: 10 answered now" in out
    )
    out = run(folder, "--max_steps", "4", "--lora_rank", "4")
    second = json.loads(out.splitlines()[-1])
    assert second["steps"] == 4 and "trained: 0 answered now, 10 before" in out
    assert (
        second["tau_before"] == first["tau_before"]
        and second["loss_after"] != first["loss_after"] < first["loss_before"]
    )
    assert (folder / "out" / "checkpoint-2" / "adapter_model.safetensors").is_file() and (
        folder / "out" / "checkpoint-4"
    ).is_dir()
    head, old = (Eagle3DraftHead.from_pretrained(folder / name) for name in ("out/head", "head"))
    assert torch.equal(head.draft_to_target, old.draft_to_target) and head.tree == old.tree
    assert (
        json.loads((folder / "out" / "run.json").read_text())["settings"]["script"]["lora_rank"]
        == 4
    )


def test_a_head_is_adapted_to_a_target_with_an_adapter(folder):
    plain = json.loads(run(folder, "--max_steps", "2", "--output_dir", "plain").splitlines()[-1])
    tuned = json.loads(run(folder, "--max_steps", "2", "--adapter", "adapter").splitlines()[-1])
    assert tuned["loss_before"] != pytest.approx(plain["loss_before"], rel=1e-3)
    head, old = (Eagle3DraftHead.from_pretrained(folder / name) for name in ("out/head", "head"))
    assert not torch.equal(head.norm.weight, old.norm.weight.float())  # all weights were trained


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
    assert [prompt["id"] for prompt in prompts["trained"]] == [
        "1",
        "2",
        "3",
        "5",
        "6",
        "7",
        "8",
        "10",
        "11",
        "13",
    ]  # 12 asks what 0 asks
    for count in (0, 14):
        with pytest.raises(ValueError, match=f"eval_prompts is {count} and there are 14 prompts"):
            recipe.split_prompts(arguments, count)


def test_answers_to_other_prompts_are_not_taken_over(folder, recipe):
    prompts = recipe.split_prompts(
        recipe.AdaptArguments(target="", head="", prompt_files=[str(folder / "asked.jsonl")]), 3
    )
    recipe.remember(folder / "kept.jsonl", prompts["trained"])
    recipe.remember(folder / "kept.jsonl", prompts["trained"])
    with pytest.raises(ValueError, match="holds other prompts"):
        recipe.remember(folder / "kept.jsonl", prompts["trained"] + prompts["held_out"][:1])
