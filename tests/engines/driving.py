"""Run an engine: a small program starts in the engine's own environment, and files go to and fro.

A driver (drivers/run_ENGINE.py) reads settings.json in the folder it is given. It leaves
answer.json there, and answer.safetensors where it has tensors to show.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from environments import HERE, missing, program
from safetensors.torch import load_file

from eagle_hf.hub.outside import ENGINE_PROGRAMS

ENVIRONMENT = {
    "vllm": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
    "sglang": {
        "SGLANG_USE_CPU_ENGINE": "1",
        "TORCHDYNAMO_DISABLE": "1",  # compiling would take longer than it saves
    },
    "llamacpp": {},
    "openvino": {},
    "transformers": {},
}


def need(engine: str) -> None:
    """Skip the test, with the reason, where the engine's environment could not be made."""
    reason = missing(engine)
    if reason:
        pytest.skip(reason)


def environment(engine: str) -> dict[str, str]:
    """The environment variables of an engine's programs.

    They run offline, find the engine's own programs first, and import what stands in for packages
    that are missing.
    """
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{program(engine).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(HERE / "stand_ins" / engine), str(ENGINE_PROGRAMS)]),
        **ENVIRONMENT[engine],
    }


def run(engine: str, *command: str | Path, timeout: int = 900) -> str:
    """Run a program of the engine's environment, for at most `timeout` seconds.

    Returns:
        What it prints. If the program fails, the test does, with the program's last words.
    """
    need(engine)
    done = subprocess.run(
        [str(part) for part in command],
        env=environment(engine),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    last_words = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, f"{command[0]} {command[1]} failed:\n{last_words}"
    return done.stdout


def drive(
    engine: str, folder: Path, **settings: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(answer, tensors) of an engine's driver, given these settings."""
    (folder / "settings.json").write_text(json.dumps(settings, default=str))
    run(engine, program(engine), HERE / "drivers" / f"run_{engine}.py", folder)
    answer = json.loads((folder / "answer.json").read_text())
    tensors = folder / "answer.safetensors"
    return answer, load_file(tensors) if tensors.is_file() else {}
