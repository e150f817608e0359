"""Tau, acceptance, speed and equality of a head, measured in this process.

Every prompt is answered with and without the head right after each other, the order alternating, so that a slow
moment of the machine hits both. Only ratios of one run mean anything on a busy machine.
"""

from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from eagle_hf.data.suites import first_turn_ids
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.measuring.timing import timed
from eagle_hf.evaluation.equality import Difference, first_difference
from eagle_hf.measuring.intervals import tau_interval


@dataclass
class Answer:
    """One prompt's two answers: token counts, seconds, what the head did, where they part (None: identical)."""

    prompt: dict
    plain_ids: torch.Tensor
    fast_ids: torch.Tensor
    plain_seconds: float
    fast_seconds: float
    stats: DecodingStats
    difference: Difference | None


@dataclass
class Summary:
    """A group of answers taken together, tau with its 95 % interval over prompts.

    Speeds count generated tokens over whole calls, the prompt's reading included.
    """

    prompts: int
    tau: float
    tau_interval: tuple[float, float]
    alpha: list[float]
    plain_tokens_per_second: float
    fast_tokens_per_second: float
    speedup: float
    identical: float
    ties: int
    overhead_ms: float
    overhead_share: float = float("nan")  # evaluations kept from before it was measured have none


def sampling_at(temperature: float) -> dict:
    """What `generate` is told; {} for greedy decoding."""
    return {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}


def evaluate(
    target,
    tokenizer,
    head,
    prompts: list[dict],
    *,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress=True,
    **sampling,
):
    """Answer every prompt's first turn with and without `head`; `sampling` goes to generate (default greedy)."""
    settings = _settings(tokenizer, prompts, max_new_tokens, sampling)
    for assistant in (None, head):  # the first calls pay for allocations
        target.generate(
            **_inputs(target, tokenizer, prompts[0]),
            assistant_model=assistant,
            **settings | {"max_new_tokens": 4},
        )
    rows = tqdm(prompts, desc="evaluating", unit="prompt", disable=not progress)
    return [
        _answer(target, tokenizer, head, prompt, settings, seed, swap=bool(i % 2))
        for i, prompt in enumerate(rows)
    ]


def acceptance(
    target,
    tokenizer,
    head,
    prompts: list[dict],
    *,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress=True,
    **sampling,
):
    """What `head` did on every prompt's first turn, a DecodingStats each: tau and alpha without the plain runs beside it."""
    settings, runs = _settings(tokenizer, prompts, max_new_tokens, sampling), []
    for prompt in tqdm(prompts, desc="drafting", unit="prompt", disable=not progress):
        torch.manual_seed(seed)
        target.generate(**_inputs(target, tokenizer, prompt), assistant_model=head, **settings)
        runs.append(head.last_run)
    return runs


def _settings(tokenizer, prompts, max_new_tokens: int, sampling: dict) -> dict:
    if not prompts:
        raise ValueError(
            "there are no prompts to evaluate on; load some with eagle_hf.data.suites.load_suite"
        )
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "pad_token_id": tokenizer.pad_token_id,
    } | sampling


def _inputs(target, tokenizer, prompt):
    return {
        name: tensor.to(target.device) for name, tensor in first_turn_ids(tokenizer, prompt).items()
    }


def _answer(target, tokenizer, head, prompt, settings, seed, swap) -> Answer:
    inputs, outputs, seconds = _inputs(target, tokenizer, prompt), {}, {}
    kept = {
        "return_dict_in_generate": True,
        "output_scores": True,
    }  # to judge a difference by; costs the plain run nothing
    for assistant in (head, None) if swap else (None, head):
        torch.manual_seed(seed)

        def answer():
            outputs[assistant] = target.generate(
                **inputs, assistant_model=assistant, **settings, **({} if assistant else kept)
            )

        seconds[assistant] = timed(answer, target.device)
    plain, fast, start = outputs[None], outputs[head], inputs["input_ids"].shape[1]
    replayed = (
        settings["do_sample"] and target.device.type == "cpu"
    )  # a GPU draws its noise in another way
    difference = first_difference(plain, fast, seed if replayed else None)
    return Answer(
        prompt,
        plain.sequences[0, start:],
        fast[0, start:],
        seconds[None],
        seconds[head],
        head.last_run,
        difference,
    )


def summarise(answers: list[Answer]) -> Summary:
    """The answers as one row of a table."""
    stats = sum((answer.stats for answer in answers), DecodingStats(rows=0))
    plain = sum(len(answer.plain_ids) for answer in answers) / sum(
        answer.plain_seconds for answer in answers
    )
    fast = sum(len(answer.fast_ids) for answer in answers) / sum(
        answer.fast_seconds for answer in answers
    )
    return Summary(
        prompts=len(answers),
        tau=stats.tau,
        tau_interval=tau_interval([answer.stats for answer in answers]),
        alpha=stats.alpha,
        plain_tokens_per_second=plain,
        fast_tokens_per_second=fast,
        speedup=fast / plain,
        identical=sum(answer.difference is None for answer in answers) / len(answers),
        ties=sum(answer.difference is not None and answer.difference.is_tie for answer in answers),
        overhead_ms=1000 * stats.overhead,
        overhead_share=stats.overhead_share,
    )


def by_category(answers: list[Answer]) -> dict[str, Summary]:
    """A summary per category, and "all"."""
    categories = dict.fromkeys(answer.prompt["category"] for answer in answers)
    groups = {name: [a for a in answers if a.prompt["category"] == name] for name in categories}
    return {name: summarise(group) for name, group in (groups | {"all": answers}).items()}
