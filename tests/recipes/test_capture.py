"""The capture recipe runs as its docstring says, on a tiny target."""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
import yaml
from engine_folders import play_the_engine
from tiny import tiny_head, tiny_target, word_tokenizer
from trl import TrlParser

from eagle_hf.data import Features, template_sha256

RECIPES = Path(__file__).parents[2] / "recipes"
LENGTHS = [9, 10, 11, 12]  # w3 ask w2 w4 answer... w2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny target, a head that reads other layers than the default, four conversations."""
    folder = tmp_path_factory.mktemp("capture")
    target = tiny_target(dtype=torch.float32, eos_token_id=2)
    target.save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    tiny_head(target, eagle_hf={"aux_layer_ids": [1, 3, 5]}).save_pretrained(folder / "head")
    lines = []
    for number, length in enumerate(LENGTHS):
        words = [f"w{5 + word}" for word in range(length - 5)]
        question = {"role": "user", "content": "w7"}
        answer = {"role": "assistant", "content": " ".join(words)}
        lines.append(json.dumps({"id": f"c{number}", "messages": [question, answer]}) + "\n")
    (folder / "data").mkdir()
    (folder / "data" / "conversations.jsonl").write_text("".join(lines))
    config = dict(
        target="target",
        target_dtype="float32",
        dataset="data",
        output="features",
        storage_dtype="float32",
        batch_tokens=20,
    )
    (folder / "capture.yaml").write_text(yaml.safe_dump(config))
    return folder


def run(folder, *flags):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, RECIPES / "capture_features.py", "--config", "capture.yaml", *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_recipe_writes_features_that_fit_the_target(folder):
    out = run(folder, "--max_length", "11", "--max_steps", "100")
    features = Features(folder / "features")
    target = tiny_target(dtype=torch.float32, eos_token_id=2)
    template = template_sha256(word_tokenizer())
    features.check(target=target, layer_ids=[2, 3, 4], template_sha256=template)
    assert features.lengths == LENGTHS[:3]
    metrics = json.loads(out.splitlines()[-1])
    assert (metrics["written"], metrics["skipped"], metrics["tokens"]) == (3, 1, 30)
    made_by = json.loads((folder / "features" / "run.json").read_text())
    assert made_by["settings"]["batch_tokens"] == 20
    assert "3 examples, 1 skipped, the first: the conversation has 12 tokens" in out
    assert "30 tokens, " in out


def test_recipe_streams_a_bounded_part_with_the_layers_of_a_head(folder):
    flags = "--streaming True --max_conversations 2 --head head --storage_dtype int8 --output few"
    run(folder, *flags.split())
    features = Features(folder / "few")
    assert len(features) == 2
    assert features.manifest["layer_ids"] == [1, 3, 5]
    assert features.manifest["dtype"] == "int8"


def test_recipe_asks_an_engine_and_captures_what_it_left(folder):
    out = run(folder, "--request_engine_states", "engine", "--max_length", "11")
    asked = json.loads(out.splitlines()[-1])
    assert (asked["texts"], asked["tokens"], asked["left_out"], asked["skipped"]) == (3, 30, 0, 1)
    play_the_engine(tiny_target(dtype=torch.float32, eos_token_id=2), folder / "engine")
    out = run(folder, "--engine_states", "engine", "--output", "engines")
    metrics = json.loads(out.splitlines()[-1])
    assert (metrics["written"], metrics["left_out"]) == (3, 1)
    assert Features(folder / "engines").lengths == LENGTHS[:3]


def test_shipped_configuration_parses_and_max_steps_bounds_the_conversations(folder):
    spec = util.spec_from_file_location("capture_features", RECIPES / "capture_features.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (arguments,) = TrlParser((module.CaptureArguments,)).parse_args_and_config(
        ["--config", str(RECIPES / "configs" / "smollm2_features.yaml")]
    )
    assert (arguments.target, arguments.storage_dtype) == ("smollm2", "bfloat16")
    arguments.dataset = str(folder / "data")
    arguments.max_steps = 1
    arguments.max_conversations = 3
    assert len(list(module.conversations(arguments))) == 1
