"""The files of recipes/cluster: valid, with flags that exist, and a Slurm array that is played."""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_target, word_tokenizer
from torch.distributed.run import get_args_parser

from eagle_hf.cli.main import parser

RECIPES = Path(__file__).parents[2] / "recipes"
CLUSTER = RECIPES / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))
MANIFESTS = sorted(CLUSTER.glob("*.yaml"))
COMMAND = re.compile(r"eagle-hf data [^\n\"]*")
FLAG = re.compile(r"--[a-z][\w.-]*")


def name_of(path):
    """What a test is called by."""
    return path.name


def documents(path):
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def containers(document):
    """Every container of a Kubernetes object."""
    found = []
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            found += value.get("containers", [])
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_is_valid_and_can_be_run(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=name_of)
def test_a_file_says_how_it_is_run(path):
    text = path.read_text()
    assert "# Run:    " in text
    assert "# Again:  " in text or path.name == "train_node.sh"


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=name_of)
def test_flags_of_the_data_command_exist(path):
    known = {option for action in data_actions() for option in action.option_strings}
    for command in COMMAND.findall(path.read_text()):
        for flag in FLAG.findall(command):
            assert flag in known, f"{path.name}: {flag}"


def data_actions():
    """Every flag of `eagle-hf data`."""
    for action in parser()._actions:
        if action.dest == "command":
            return action.choices["data"]._actions
    raise AssertionError("the command line has no sub-commands")


def test_flags_of_torchrun_and_of_training_exist():
    text = (CLUSTER / "train_node.sh").read_text()
    command = text[text.index("exec torchrun") :]
    agents, recipe = command.split("recipes/train.py")
    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert {flag.replace("_", "-") for flag in FLAG.findall(agents)} <= known
    assert FLAG.findall(recipe) == ["--resume_from_checkpoint"]


@pytest.mark.parametrize("path", MANIFESTS, ids=name_of)
def test_a_manifest_is_valid_yaml_of_its_kind(path):
    for document in documents(path):
        if path.name.endswith("skypilot.yaml"):
            assert {"num_nodes", "resources", "setup", "run"} <= set(document)
            done = subprocess.run(["bash", "-n"], input=document["run"], text=True)
            assert done.returncode == 0
        else:
            assert {"apiVersion", "kind", "metadata", "spec"} <= set(document)


@pytest.mark.parametrize("path", MANIFESTS, ids=name_of)
def test_every_mounted_volume_is_declared(path):
    for document in documents(path):
        text = json.dumps(document)
        for container in containers(document):
            for mount in container["volumeMounts"]:
                assert f'"name": "{mount["name"]}", "persistentVolumeClaim"' in text


def test_an_indexed_job_has_as_many_pods_as_shards():
    by_name = {}
    for document in documents(CLUSTER / "data_kubernetes.yaml"):
        by_name[document["metadata"]["name"]] = document["spec"]
    answers = by_name["eagle-hf-answers"]
    (container,) = containers(answers)
    assert container["env"] == [{"name": "SHARDS", "value": str(answers["completions"])}]
    assert answers["completionMode"] == "Indexed"


# What stands for Slurm: jobs run at once, arrays one task after the other.
SBATCH = """#!/bin/bash
set -euo pipefail
array=""
for word in "$@"; do
    case "$word" in
        --wrap=*) command="${word#--wrap=}" ;;
        --array=0-*) array="${word#--array=0-}" ;;
    esac
done
if [ -n "$array" ]; then
    export SLURM_ARRAY_TASK_COUNT=$((array + 1))
    for ((task = 0; task <= array; task++)); do
        SLURM_ARRAY_TASK_ID=$task bash -c "$command" >&2
    done
else
    bash -c "$command" >&2
fi
echo "$RANDOM"
"""


@pytest.fixture
def slurm(tmp_path):
    """An environment in which `sbatch` and `eagle-hf` exist."""
    tools = tmp_path / "tools"
    tools.mkdir()
    ours = f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m eagle_hf.cli "$@"\n'
    for name, text in (("sbatch", SBATCH), ("eagle-hf", ours)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "SHARDS": "3",
    }


@pytest.mark.slow
def test_a_slurm_array_answers_what_one_machine_answers(slurm, tmp_path):
    tiny_target(dtype=torch.float32).save_pretrained(tmp_path / "target")
    word_tokenizer().save_pretrained(tmp_path / "target")
    rows = []
    for number in range(24):
        turns = [f"w{5 + number % 11} w{6 + number % 7}"]
        rows.append(json.dumps({"id": f"q{number}", "turns": turns, "category": "words"}) + "\n")
    (tmp_path / "mine.jsonl").write_text("".join(rows))
    config = dict(
        target=str(tmp_path / "target"),
        target_dtype="float32",
        prompts=dict(sources=[str(tmp_path / "mine.jsonl")]),
        answers=dict(max_new_tokens=12, batch_size=4),
    )
    found = {}
    for name, command in (
        ("array", [CLUSTER / "data_slurm.sh"]),
        ("alone", ["eagle-hf", "data", "--config"]),
    ):
        output = tmp_path / name
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config | {"output_dir": str(output)}))
        done = subprocess.run([*command, path], env=slurm, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = (output / "conversations" / "conversations.jsonl").read_text().splitlines()
        found[name] = {row["id"]: row for row in map(json.loads, lines)}
    assert found["array"] == found["alone"]
    assert len(found["alone"]) > 20
    assert len(list((tmp_path / "array" / "shards").iterdir())) == 3
