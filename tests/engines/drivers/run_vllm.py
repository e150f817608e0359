"""What vLLM drafts, round by round: its proposals, the logits behind them, and the text so far.

N proposals, K drafts of each, V target vocabulary, U draft vocabulary.

Settings:
    target, head: Folders of models.
    depth: Drafts a round.
    prompts: Token ids of each prompt.
    new_tokens: Tokens of each answer.
    stop: The tokens that end an answer.

Answer:
    answers: Token ids of each answer.
    accepted: Accepted drafts at each position.
    proposals: [prompt, tokens of the answer so far] of each proposal.

Tensors:
    drafts: [N, K].
    logits: Of the draft vocabulary, [N, K, U].
    ids: The target's tokens that these logits belong to, [U].
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

# The drafter runs in this process, where it can be watched. vLLM reads this when it is imported.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM, SamplingParams  # noqa: E402


@dataclass
class Proposal:
    """What vLLM drafted in one step: drafts [K], logits [K, V], -inf outside U."""

    drafts: torch.Tensor
    logits: torch.Tensor


@dataclass
class Request:
    """One prompt, answered: its tokens, and the proposals made after so many of them."""

    answer: list[int]
    proposals: list[tuple[int, Proposal]]


def watch_proposals(llm: LLM) -> list[Proposal]:
    """A list to which the engine's proposals are added as it makes them.

    vLLM shows them nowhere, so two methods of its drafter are wrapped.
    """
    drafter = llm.llm_engine.model_executor.driver_worker.worker.model_runner.drafter
    propose = drafter.propose
    compute_logits = drafter.model.compute_logits
    proposals = []
    logits = []

    def watched_logits(*args: Any, **kwargs: Any) -> torch.Tensor:
        logits.append(compute_logits(*args, **kwargs))
        return logits[-1]

    def watched_propose(*args: Any, **kwargs: Any) -> torch.Tensor:
        logits.clear()
        drafts = propose(*args, **kwargs)
        proposals.append(Proposal(drafts[0].clone(), torch.cat(logits)))
        return drafts

    drafter.propose = watched_propose
    drafter.model.compute_logits = watched_logits
    return proposals


def make_engine(settings: dict[str, Any]) -> LLM:
    """vLLM in float32, with EAGLE-3."""
    return LLM(
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


def answer_prompt(
    llm: LLM, watched: list[Proposal], name: str, prompt: list[int], sampling: SamplingParams
) -> Request:
    """Answer one prompt step by step. A proposal after the last step is dropped."""
    llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, sampling)
    proposals = []
    output = None
    while llm.llm_engine.has_unfinished_requests():
        watched.clear()
        outputs = llm.llm_engine.step()
        if outputs:
            output = outputs[0]
        if watched and not output.finished:
            known = len(output.outputs[0].token_ids)
            proposals.append((known, watched[0]))
    return Request(list(output.outputs[0].token_ids), proposals)


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    llm = make_engine(settings)
    watched = watch_proposals(llm)
    sampling = SamplingParams(
        temperature=0,
        max_tokens=settings["new_tokens"],
        stop_token_ids=settings["stop"],
        detokenize=False,
    )
    # 1) answer the prompts, one after the other
    answers = []
    proposals = []
    drafts = []
    logits = []
    for number, prompt in enumerate(settings["prompts"]):
        request = answer_prompt(llm, watched, str(number), prompt, sampling)
        answers.append(request.answer)
        for known, proposal in request.proposals:
            proposals.append((number, known))
            drafts.append(proposal.drafts)
            logits.append(proposal.logits)
    # 2) leave the answers
    counters = {metric.name: metric for metric in llm.get_metrics()}
    accepted = counters["vllm:spec_decode_num_accepted_tokens_per_pos"].values
    answer = {"answers": answers, "accepted": accepted, "proposals": proposals}
    (folder / "answer.json").write_text(json.dumps(answer))
    # 3) leave the tensors, without the tokens that the head does not know
    ids = logits[0][0].isfinite().nonzero()[:, 0]  # [U]
    tensors = {
        "ids": ids,
        "drafts": torch.stack(drafts),  # [N, K]
        "logits": torch.stack([row[:, ids] for row in logits]),  # [N, K, U]
    }
    save_file(tensors, folder / "answer.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
