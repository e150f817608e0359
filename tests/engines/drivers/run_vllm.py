"""What vLLM drafts, round by round: every proposal, the logits it was taken from, and the text so far.

Settings: target, head, depth (drafts a round), prompts (token ids), new_tokens, stop (token ids).
Answer: answers (token ids of each prompt), accepted (per position), proposals ([prompt, tokens of the answer so far]).
Tensors, N proposals: drafts [N, K], logits [N, K, U] of the draft vocabulary, ids [U] of which tokens.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
    "0"  # the drafter shall run here, where it can be watched
)
from vllm import LLM, SamplingParams  # noqa: E402


def watched(llm) -> list:
    """Proposals of the engine, (drafts [K], logits [K, V]) each, as they are made."""
    drafter, proposals, logits = (
        llm.llm_engine.model_executor.driver_worker.worker.model_runner.drafter,
        [],
        [],
    )
    propose, compute_logits = drafter.propose, drafter.model.compute_logits

    def seen_logits(*args, **kwargs):
        logits.append(compute_logits(*args, **kwargs))
        return logits[-1]

    def seen_proposal(*args, **kwargs):
        logits.clear()
        drafts = propose(*args, **kwargs)
        proposals.append((drafts[0].clone(), torch.cat(logits)))
        return drafts

    drafter.propose, drafter.model.compute_logits = seen_proposal, seen_logits
    return proposals


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    llm = LLM(
        settings["target"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        skip_tokenizer_init=True,
        disable_log_stats=False,
        async_scheduling=False,
        enable_prefix_caching=False,
        speculative_config={
            "method": "eagle3",
            "model": settings["head"],
            "num_speculative_tokens": settings["depth"],
        },
    )
    sampling = SamplingParams(
        temperature=0,
        max_tokens=settings["new_tokens"],
        stop_token_ids=settings["stop"],
        detokenize=False,
    )
    seen, answers, kept = watched(llm), [], []
    for number, prompt in enumerate(settings["prompts"]):
        llm.llm_engine.add_request(str(number), {"prompt_token_ids": prompt}, sampling)
        output = None
        while llm.llm_engine.has_unfinished_requests():
            seen.clear()
            output = (llm.llm_engine.step() or [output])[0]
            if seen and not output.finished:
                kept.append((number, len(output.outputs[0].token_ids), *seen[0]))
        answers.append(list(output.outputs[0].token_ids))
    ids = kept[0][3][0].isfinite().nonzero()[:, 0]
    counters = {metric.name: metric for metric in llm.get_metrics()}
    accepted = counters["vllm:spec_decode_num_accepted_tokens_per_pos"].values
    answer = {"answers": answers, "accepted": accepted, "proposals": [entry[:2] for entry in kept]}
    (folder / "answer.json").write_text(json.dumps(answer))
    logits = torch.stack([entry[3][:, ids] for entry in kept])
    save_file(
        {
            "ids": ids,
            "drafts": torch.stack([entry[2] for entry in kept]),
            "logits": logits.contiguous(),
        },
        folder / "answer.safetensors",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
