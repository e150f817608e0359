"""How many tokens each of OpenVINO GenAI's rounds emits, prompt by prompt, and which.

Settings:
    target, head: Folders of exported models.
    options: Arguments of its `generate`, the shape of the drafts among them.
    prompts: Token ids of each prompt.

Answer:
    answers: Token ids of each answer.
    emitted: Tokens of each round of each prompt, without the prefill's.
"""

import json
import sys
from pathlib import Path

import numpy
import openvino
import openvino_genai

EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "INFERENCE_NUM_THREADS": 1,
}


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    drafter = openvino_genai.draft_model(settings["head"], "CPU", **EXACT)
    pipeline = openvino_genai.LLMPipeline(settings["target"], "CPU", draft_model=drafter, **EXACT)
    answers = []
    emitted = []
    for prompt in settings["prompts"]:
        ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        reply = pipeline.generate(ids, **settings["options"])
        answers.append(list(reply.tokens[0]))
        # Its own count of accepted drafts leaves the last round out, so the batch sizes are read.
        metrics = reply.extended_perf_metrics.main_model_metrics.raw_metrics
        emitted.append(list(metrics.m_batch_sizes)[1:])
    (folder / "answer.json").write_text(json.dumps({"answers": answers, "emitted": emitted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
