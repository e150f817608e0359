"""Run an engine: a small program starts in the engine's own environment, and files go back and forth.

A driver (drivers/run_ENGINE.py) reads settings.json in the folder it is given and leaves answer.json there, and answer.safetensors
where it has tensors to show.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from environments import HERE, missing, program
from safetensors.torch import load_file

ENVIRONMENT = {
    "vllm": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
    "sglang": {
        "SGLANG_USE_CPU_ENGINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    },  # nothing is compiled: it would take longer than it saves
    "llamacpp": {},
    "openvino": {},
}


def need(engine: str) -> None:
    """Skip the test, with the reason, where the engine's environment could not be made."""
    if reason := missing(engine):
        pytest.skip(reason)


def environment(engine: str) -> dict[str, str]:
    """The variables an engine's programs are started with: offline, its own programs first, and what stands in for missing packages."""
    paths = {
        "PATH": f"{program(engine).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(HERE / "stand_ins" / engine),
    }
    return os.environ | {"HF_HUB_OFFLINE": "1"} | paths | ENVIRONMENT[engine]


def run(engine: str, *command, timeout: int = 900) -> str:
    """What a program of the engine's environment prints; the test fails with its last words where it fails."""
    need(engine)
    done = subprocess.run(
        [*map(str, command)],
        env=environment(engine),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, (
        f"{command[0]} {command[1]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def drive(engine: str, folder: Path, **settings) -> tuple[dict, dict]:
    """(answer, tensors) of an engine's driver, given these settings."""
    (folder / "settings.json").write_text(json.dumps(settings, default=str))
    run(engine, program(engine), HERE / "drivers" / f"run_{engine}.py", folder)
    tensors = folder / "answer.safetensors"
    return json.loads((folder / "answer.json").read_text()), load_file(
        tensors
    ) if tensors.is_file() else {}
