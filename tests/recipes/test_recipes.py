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
from trl import TrlParser

from eagle_hf import Eagle3DraftHead
from tiny import tiny_target, word_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny target with a tokenizer, and prompts for it."""
    folder = tmp_path_factory.mktemp("recipes")
    tiny_target(dtype=torch.float32, eos_token_id=2).save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    rows = [{"id": str(i), "turns": [f"w{5 + i % 20} w{6 + i % 7}"], "category": "words"} for i in range(12)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    return folder


def run(command, cwd):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def conversations(folder):
    config = dict(target="target", output_dir="data", prompt_files=["asked.jsonl"], max_new_tokens=12, target_dtype="float32", batch_size=4)
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    out = run([sys.executable, RECIPES / "prepare_data.py", "--config", "data.yaml", "--max_steps", "10"], folder)
    return out, folder / "data" / "responses"


def test_prepare_data_writes_conversations_and_reports_bad_lines(conversations):
    out, responses = conversations
    rows = [json.loads(line) for line in (responses / "conversations.jsonl").read_text().splitlines()]
    metrics = json.loads(out.splitlines()[-1])
    assert metrics["written"] == len(rows) > 5 and [m["role"] for m in rows[0]["messages"]] == ["user", "assistant"]
    assert "1 lines skipped, the first: line 13, not JSON" in out


def test_accelerate_launch_trains_from_yaml_and_flags(folder, conversations):
    config = dict(
        target="target", dataset=str(conversations[1]), draft_vocab_size=20, fill_by_rank=True, output_dir="head", max_steps=50,
        per_device_train_batch_size=2, ttt_length=2, target_dtype="float32", use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
    )
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]
    out = run([*launch, RECIPES / "train.py", "--config", "train.yaml", "--max_steps", "3", "--logging_steps", "1"], folder)
    assert json.loads(out.splitlines()[-1])["steps"] == 3
    head = Eagle3DraftHead.from_pretrained(folder / "head")
    assert head.config.draft_vocab_size == 20
    assert json.loads((folder / "head" / "run.json").read_text())["settings"]["script"]["target"] == "target"


RECIPE_OF = {"data": ("prepare_data", ["DataArguments"]), "features": ("capture_features", ["CaptureArguments"])}


@pytest.mark.parametrize("name", sorted(path.name for path in (RECIPES / "configs").glob("*.yaml")))
def test_every_shipped_configuration_parses(name):
    recipe, names = RECIPE_OF.get(Path(name).stem.rsplit("_", 1)[-1], ("train", ["ScriptArguments", "Eagle3TrainingArguments"]))
    spec = util.spec_from_file_location(recipe, RECIPES / f"{recipe}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = tuple(getattr(module, name) for name in names)
    path = RECIPES / "configs" / name
    parsed = TrlParser(classes).parse_args_and_config(["--config", str(path)])
    merged = {key: value for part in parsed for key, value in vars(part).items()}
    for key, value in yaml.safe_load(path.read_text()).items():
        assert merged[key] == value or key == "report_to"
