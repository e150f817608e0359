"""OpenVINO GenAI, plain or with the head, for compare_engines.py.

Target and head are exported first, in float32; the engine computes in the dtype that it is told.
The cache is in that dtype too. By itself it has eight bits, and with those, in float32, a tree
writes another text than plain decoding does (seen in 2026.4.1).
"""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import openvino
import openvino_genai
from answering import Answer, AnswerPrompt, serve

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
CACHE_GB = 1


class FirstTokenClock(openvino_genai.StreamerBase):
    """Notes when the first new tokens are there."""

    def __init__(self) -> None:
        super().__init__()
        self.first: float | None = None

    def write(self, _tokens: Any) -> openvino_genai.StreamingStatus:
        if self.first is None:
            self.first = time.perf_counter()
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is left to be shown."""


def export(folder: str, out: Path, *options: str) -> Path:
    """The exported model; one that is there is taken."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f"{out.name}.part")
        # not the script optimum-cli: that works in the folder alone where it was installed
        command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"]
        command += ["--task", "text-generation-with-past", "--weight-format", "fp32", *options]
        subprocess.run([*command, "--model", folder, part], check=True)
        if not options:
            move_names(part / "openvino_model.xml")
        part.rename(out)
    return out


def move_names(graph: Path) -> None:
    """Name the output of every layer one layer higher.

    GenAI finds the aux hidden states by these names, one layer further than heads are trained on.
    """

    def next_layer(match: re.Match) -> str:
        return str(int(match[0]) + 1)

    name = r'(?<=name="__module\.model\.layers\.)\d+(?=/aten::add/Add_1")'
    graph.write_text(re.sub(name, next_layer, graph.read_text()))


def open_pipeline(settings: dict[str, Any]) -> openvino_genai.LLMPipeline:
    """The pipeline; prompts are read anew at every call, as everywhere in this comparison."""
    work = Path(settings["work"]) / "openvino"
    target = export(settings["target"], work / "target")
    precision = PRECISIONS[settings["dtype"]]
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "INFERENCE_NUM_THREADS": settings["threads"],
    }
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GB
    scheduler.enable_prefix_caching = False
    drafter = {}
    if settings["head"] is not None:
        head = export(settings["head"], work / "head", "--trust-remote-code")
        drafter["draft_model"] = openvino_genai.draft_model(str(head), "CPU", **options)
    return openvino_genai.LLMPipeline(
        str(target), "CPU", scheduler_config=scheduler, **drafter, **options
    )


def draft_options(drafts: dict[str, int]) -> dict[str, int]:
    """A chain or a tree, as arguments of the engine's `generate`."""
    if "nodes" not in drafts:
        return {"num_assistant_tokens": drafts["depth"]}
    return {
        "num_assistant_tokens": drafts["nodes"],
        "tree_depth": drafts["depth"],
        "branching_factor": drafts["top_k"],
    }


def open_engine(settings: dict[str, Any]) -> AnswerPrompt:
    """The pipeline as what answers a prompt."""
    pipeline = open_pipeline(settings)
    options: dict[str, Any] = {"max_new_tokens": settings["new_tokens"]}
    options["stop_token_ids"] = set(settings["stop"])
    if settings["head"] is not None:
        options |= draft_options(settings["drafts"])

    def answer_prompt(prompt: list[int]) -> Answer:
        ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))  # [1, S]
        clock = FirstTokenClock()
        started = time.perf_counter()
        reply = pipeline.generate(ids, streamer=clock, **options)
        ended = time.perf_counter()
        tokens = list(reply.tokens[0])
        accepted = None
        if settings["head"] is not None:
            # Its own count of accepted drafts leaves the last round out.
            metrics = reply.extended_perf_metrics.main_model_metrics.raw_metrics
            emitted = list(metrics.m_batch_sizes)[1:]  # tokens of each round; the prefill's is left
            accepted = sum(emitted) - len(emitted)  # each round emits one bonus token
        return Answer(tokens, len(tokens), ended - clock.first, ended - started, accepted)

    return answer_prompt


if __name__ == "__main__":
    serve(open_engine, ("openvino", "openvino-genai"))
