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
from eagle_hf.pipeline import read_config

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny target with a tokenizer, and prompts for it."""
    folder = tmp_path_factory.mktemp("recipes")
    tiny_target(dtype=torch.float32, eos_token_id=2).save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    lines = []
    for number in range(12):
        turn = f"w{5 + number} w{6 + number % 7}"
        row = {"id": str(number), "turns": [turn], "category": "words"}
        lines.append(json.dumps(row) + "\n")
    (folder / "asked.jsonl").write_text("".join(lines) + "not json\n")
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
        target_dtype="float32",
        prompts=dict(sources=["asked.jsonl"]),
        answers=dict(max_new_tokens=12, batch_size=4),
    )
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    flags = ["--config", "data.yaml", "--max_prompts", "10"]
    out = run([sys.executable, "-m", "eagle_hf.cli", "data", *flags], folder)
    return out, folder / "data" / "conversations"


def test_a_data_run_writes_conversations_and_reports_bad_lines(conversations):
    out, folder = conversations
    lines = (folder / "conversations.jsonl").read_text().splitlines()
    metrics = json.loads(out.splitlines()[-1])
    assert metrics["answers"]["finished"] == len(lines) > 5
    roles = [message["role"] for message in json.loads(lines[0])["messages"]]
    assert roles == ["user", "assistant"]
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
    launch = (
        "-m accelerate.commands.launch --num_processes 1 --num_machines 1 --mixed_precision no "
        "--dynamo_backend no --cpu"
    )
    flags = ["--config", "train.yaml", "--max_steps", "3", "--logging_steps", "1"]
    out = run([sys.executable, *launch.split(), RECIPES / "train.py", *flags], folder)
    assert json.loads(out.splitlines()[-1])["steps"] == 3
    head = Eagle3DraftHead.from_pretrained(folder / "head")
    assert head.config.draft_vocab_size == 20
    made_by = json.loads((folder / "head" / "run.json").read_text())
    assert made_by["settings"]["script"]["target"] == "target"


def recipe_module(name):
    spec = util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_naked_loop_is_the_trainer(tmp_path):
    # 1) the same examples, the same head
    target = tiny_target(dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(12):
        ids = torch.randint(3, 31, (14 + number,), generator=generator).tolist()
        rows.append({"input_ids": ids, "loss_mask": [0] * 4 + [1] * (10 + number)})
    head = tiny_head(target)

    # 2) five steps of each
    naked = recipe_module("naked_loop").train(
        target, head, rows, steps=5, batch_size=4, learning_rate=3e-3, ttt_length=3
    )
    naked_losses = list(naked)
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

    # 3) the same losses, the same weights
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert naked_losses == pytest.approx(losses, rel=1e-6)
    for ours, theirs in zip(head.parameters(), trainer.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_naked_loop_runs_alone(folder, conversations):
    flags = (
        "--target target --output_dir naked --draft_vocab_size 20 --batch_size 2 --max_steps 2 "
        "--ttt_length 2"
    )
    command = [sys.executable, RECIPES / "naked_loop.py", "--dataset", str(conversations[1])]
    out = run([*command, *flags.split()], folder)
    assert json.loads(out.splitlines()[-1])["steps"] == 2
    head = Eagle3DraftHead.from_pretrained(folder / "naked")
    assert head.config.draft_vocab_size == 20


def test_a_training_step_is_measured_beside_its_matrix_products(folder):
    flags = (
        "--one --length 24 --hidden 64 --vocabulary 40 --drafted 24 --ttt_length 2 --steps 1 "
        "--online --target_layers 6"
    )
    out = run([sys.executable, RECIPES / "benchmark_training.py", *flags.split()], folder)
    measured = json.loads(out.splitlines()[-1])
    assert measured["tokens_per_second"] > 0
    assert measured["share_of_limit"] > 0


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
    flags = "--target target --output features --target_dtype float32"
    capture = [sys.executable, RECIPES / "capture_features.py", "--dataset", str(conversations[1])]
    run([*capture, *flags.split()], folder)
    offline = dict(features="features", output_dir="offline", draft_vocab_size=0)

    # 1) a run on features
    metrics, head, _ = train_with(folder, **offline)
    assert metrics["steps"] == 4
    assert metrics["eval_tau"] >= 1
    assert metrics["coverage"] == 1.0
    assert head.config.draft_vocab_size == 31

    # 2) it goes on
    metrics, longer, _ = train_with(folder, **offline, resume_from_checkpoint="last", max_steps=6)
    assert metrics["steps"] == 6

    # 3) a LoRA of it moves the matrices alone
    lora = dict(output_dir="lora", head="offline", lora_rank=2, learning_rate=1e-2)
    metrics, adapted, _ = train_with(folder, features="features", **lora)
    assert metrics["coverage"] is None
    after = dict(adapted.named_parameters())
    for name, parameter in longer.named_parameters():
        is_matrix_of_a_layer = "norm" not in name and "lm_head" not in name
        assert torch.equal(parameter, after[name]) != is_matrix_of_a_layer, name


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
    assert metrics["steps"] == 4
    assert "covers" in out
    assert head.config.draft_vocab_size == 20


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_training_chooses_the_activation_of_a_new_head(activation):
    recipe = recipe_module("train")
    arguments = recipe.ScriptArguments(
        target="", dataset=[""], draft_vocab_size=0, hidden_act=activation
    )
    target = tiny_target(dtype=torch.float32, hidden_act="gelu")
    examples = [{"id": "x", "input_ids": [5, 6, 7], "loss_mask": [0, 1, 1]}]
    head, _ = recipe.make_head(arguments, target, examples)
    assert head.config.hidden_act == activation


def test_fc_starts_as_asked_for():
    recipe = recipe_module("train")
    settings = dict(target="", dataset=[""], draft_vocab_size=0)
    examples = [{"id": "x", "input_ids": [5, 6, 7], "loss_mask": [0, 1, 1]}]
    scaled = recipe.ScriptArguments(fc_start="scaled", **settings)
    head, _ = recipe.make_head(scaled, tiny_target(dtype=torch.float32), examples)
    assert torch.equal(head.fc.weight, torch.eye(32).repeat(1, 3) / 3)
    with pytest.raises(ValueError, match="fc is trained already"):
        recipe.ScriptArguments(fc_start="scaled", head="folder", **settings)


def test_training_takes_what_is_not_held_out_evenly_spread():
    recipe = recipe_module("train")
    arguments = recipe.ScriptArguments(
        target="target", dataset=["data"], eval_conversations=3, max_conversations=4
    )
    ids = [f"c{number}" for number in range(12)]
    assert recipe.split(ids, arguments) == ([1, 3, 6, 9], [0, 4, 8])
    arguments.max_conversations = None
    assert recipe.split(ids, arguments) == ([1, 2, 3, 5, 6, 7, 9, 10, 11], [0, 4, 8])


def test_all_examples_of_a_conversation_are_on_one_side():
    recipe = recipe_module("train")
    arguments = recipe.ScriptArguments(target="target", dataset=["data"], eval_conversations=1)
    ids = ["a:answer-1", "a:answer-2", "b", "c:answer-1", "c:answer-2"]
    assert recipe.split(ids, arguments) == ([2, 3, 4], [0, 1])


TRAINING = ("train", ["ScriptArguments", "Eagle3TrainingArguments"])
RECIPE_OF = {
    "features": ("capture_features", ["CaptureArguments"]),
    "adapt": ("adapt", ["AdaptArguments", "Eagle3TrainingArguments"]),
    "ablations": ("ablations", ["AblationArguments"]),
    "scaling": ("ablations", ["AblationArguments"]),
    "evaluation": ("evaluate", ["EvaluationArguments"]),
    "publish": ("publish", ["PublishArguments"]),
}


CONFIGS = sorted(path.name for path in (RECIPES / "configs").glob("*.yaml"))
DATA_CONFIGS = [name for name in CONFIGS if name.startswith("data-")]


@pytest.mark.parametrize("name", DATA_CONFIGS)
def test_every_shipped_configuration_of_data_is_read(name):
    assert read_config(RECIPES / "configs" / name).output_dir.startswith("outputs/")


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - set(DATA_CONFIGS)))
def test_every_shipped_configuration_parses(name):
    kind = Path(name).stem.rsplit("_", 1)[-1]
    recipe, names = RECIPE_OF.get(kind, TRAINING)
    module = recipe_module(recipe)
    classes = tuple(getattr(module, class_name) for class_name in names)
    path = RECIPES / "configs" / name
    merged = {}
    for part in TrlParser(classes).parse_args_and_config(["--config", str(path)]):
        merged |= vars(part)
    for key, value in yaml.safe_load(path.read_text()).items():
        assert merged[key] == value or key == "report_to"
