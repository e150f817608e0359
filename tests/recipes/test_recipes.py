"""Every recipe runs as its docstring says, on a tiny target."""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_head, tiny_target, word_tokenizer
from trl import TrlParser

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, Eagle3TrainingArguments

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny target with a tokenizer, and prompts for it."""
    folder = tmp_path_factory.mktemp("recipes")
    tiny_target(dtype=torch.float32, eos_token_id=2).save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    rows = [
        {"id": str(i), "turns": [f"w{5 + i % 20} w{6 + i % 7}"], "category": "words"}
        for i in range(12)
    ]
    (folder / "asked.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + "not json\n"
    )
    return folder


def run(command, cwd):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def conversations(folder):
    config = dict(
        target="target",
        output_dir="data",
        prompt_files=["asked.jsonl"],
        max_new_tokens=12,
        target_dtype="float32",
        batch_size=4,
    )
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    out = run(
        [sys.executable, RECIPES / "prepare_data.py", "--config", "data.yaml", "--max_steps", "10"],
        folder,
    )
    return out, folder / "data" / "responses"


def test_prepare_data_writes_conversations_and_reports_bad_lines(conversations):
    out, responses = conversations
    rows = [
        json.loads(line) for line in (responses / "conversations.jsonl").read_text().splitlines()
    ]
    metrics = json.loads(out.splitlines()[-1])
    assert metrics["written"] == len(rows) > 5 and [m["role"] for m in rows[0]["messages"]] == [
        "user",
        "assistant",
    ]
    assert "1 lines skipped, the first: line 13, not JSON" in out


def test_accelerate_launch_trains_from_yaml_and_flags(folder, conversations):
    config = dict(
        target="target",
        dataset=str(conversations[1]),
        draft_vocab_size=20,
        fill_by_rank=True,
        output_dir="head",
        max_steps=50,
        per_device_train_batch_size=2,
        ttt_length=2,
        target_dtype="float32",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--cpu",
    ]
    out = run(
        [
            *launch,
            RECIPES / "train.py",
            "--config",
            "train.yaml",
            "--max_steps",
            "3",
            "--logging_steps",
            "1",
        ],
        folder,
    )
    assert json.loads(out.splitlines()[-1])["steps"] == 3
    head = Eagle3DraftHead.from_pretrained(folder / "head")
    assert head.config.draft_vocab_size == 20
    assert (
        json.loads((folder / "head" / "run.json").read_text())["settings"]["script"]["target"]
        == "target"
    )


def recipe_module(name):
    spec = util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_naked_loop_is_the_trainer(tmp_path):
    target, generator = tiny_target(dtype=torch.float32), torch.Generator().manual_seed(0)
    rows = [
        {
            "input_ids": torch.randint(3, 31, (14 + i,), generator=generator).tolist(),
            "loss_mask": [0] * 4 + [1] * (10 + i),
        }
        for i in range(12)
    ]
    head = tiny_head(target)
    naked = list(
        recipe_module("naked_loop").train(
            target, head, rows, steps=5, batch_size=4, learning_rate=3e-3, ttt_length=3
        )
    )
    args = Eagle3TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=5,
        learning_rate=3e-3,
        ttt_length=3,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
        train_sampling_strategy="sequential",
        bf16=False,
    )
    trainer = Eagle3Trainer(model=tiny_head(target), target=target, args=args, train_dataset=rows)
    trainer.train()
    assert naked == pytest.approx(
        [log["loss"] for log in trainer.state.log_history if "loss" in log], rel=1e-6
    )
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(head.parameters(), trainer.model.parameters())
    )


def test_the_naked_loop_runs_alone(folder, conversations):
    command = [
        sys.executable,
        RECIPES / "naked_loop.py",
        "--target",
        "target",
        "--dataset",
        str(conversations[1]),
        "--output_dir",
        "naked",
    ]
    out = run(
        [
            *command,
            "--draft_vocab_size",
            "20",
            "--batch_size",
            "2",
            "--max_steps",
            "2",
            "--ttt_length",
            "2",
        ],
        folder,
    )
    assert (
        json.loads(out.splitlines()[-1])["steps"] == 2
        and Eagle3DraftHead.from_pretrained(folder / "naked").config.draft_vocab_size == 20
    )


COMMON = dict(
    target="target",
    target_dtype="float32",
    per_device_train_batch_size=2,
    ttt_length=2,
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
    logging_steps=1,
    eval_strategy="steps",
    eval_steps=2,
    eval_conversations=2,
    eval_prompts=2,
    eval_new_tokens=6,
    max_steps=4,
    save_steps=2,
)


def train_with(folder, **config):
    name = config["output_dir"]
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(COMMON | config))
    out = run([sys.executable, RECIPES / "train.py", "--config", f"{name}.yaml"], folder)
    return json.loads(out.splitlines()[-1]), Eagle3DraftHead.from_pretrained(folder / name), out


@pytest.mark.slow
def test_a_run_on_features_goes_on_and_is_adapted_with_lora(folder, conversations):
    capture = [
        sys.executable,
        RECIPES / "capture_features.py",
        "--target",
        "target",
        "--dataset",
        str(conversations[1]),
        "--output",
        "features",
    ]
    run([*capture, "--target_dtype", "float32"], folder)
    metrics, head, _ = train_with(
        folder, features="features", output_dir="offline", draft_vocab_size=0
    )
    assert (
        metrics["steps"] == 4
        and metrics["eval_tau"] >= 1
        and metrics["coverage"] == 1.0
        and head.config.draft_vocab_size == 31
    )
    metrics, longer, _ = train_with(
        folder,
        features="features",
        output_dir="offline",
        draft_vocab_size=0,
        resume_from_checkpoint="last",
        max_steps=6,
    )
    assert metrics["steps"] == 6
    metrics, adapted, _ = train_with(
        folder,
        features="features",
        output_dir="lora",
        head="offline",
        lora_rank=2,
        learning_rate=1e-2,
    )
    assert metrics["coverage"] is None
    moved = {
        name
        for (name, a), b in zip(longer.named_parameters(), adapted.parameters())
        if not torch.equal(a, b)
    }
    assert moved == {
        name
        for name, _ in longer.named_parameters()
        if "norm" not in name and "lm_head" not in name
    }


@pytest.mark.slow
def test_a_streamed_dataset_trains(folder, conversations):
    metrics, head, out = train_with(
        folder,
        dataset=str(conversations[1]),
        streaming=True,
        output_dir="streamed",
        draft_vocab_size=20,
        fill_by_rank=True,
        packing=True,
        loss_type="lk_hybrid",
        attn_implementation="eager",
    )
    assert metrics["steps"] == 4 and "covers" in out and head.config.draft_vocab_size == 20


def test_training_takes_what_is_not_held_out_evenly_spread():
    recipe = recipe_module("train")
    arguments = recipe.ScriptArguments(
        target="target", dataset=["data"], eval_conversations=3, max_conversations=4
    )
    assert recipe.split(12, arguments) == ([1, 3, 6, 9], [0, 4, 8])
    arguments.max_conversations = None
    assert recipe.split(12, arguments) == ([1, 2, 3, 5, 6, 7, 9, 10, 11], [0, 4, 8])


RECIPE_OF = {
    "data": ("prepare_data", ["DataArguments"]),
    "features": ("capture_features", ["CaptureArguments"]),
    "adapt": ("adapt", ["AdaptArguments", "Eagle3TrainingArguments"]),
}
RECIPE_OF |= {
    "ablations": ("ablations", ["AblationArguments"]),
    "scaling": ("ablations", ["AblationArguments"]),
}
RECIPE_OF |= {
    "evaluation": ("evaluate", ["EvaluationArguments"]),
    "publish": ("publish", ["PublishArguments"]),
}


@pytest.mark.parametrize("name", sorted(path.name for path in (RECIPES / "configs").glob("*.yaml")))
def test_every_shipped_configuration_parses(name):
    recipe, names = RECIPE_OF.get(
        Path(name).stem.rsplit("_", 1)[-1],
        ("train", ["ScriptArguments", "Eagle3TrainingArguments"]),
    )
    module = recipe_module(recipe)
    classes = tuple(getattr(module, name) for name in names)
    path = RECIPES / "configs" / name
    parsed = TrlParser(classes).parse_args_and_config(["--config", str(path)])
    merged = {key: value for part in parsed for key, value in vars(part).items()}
    for key, value in yaml.safe_load(path.read_text()).items():
        assert merged[key] == value or key == "report_to"
