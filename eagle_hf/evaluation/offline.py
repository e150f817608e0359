"""Tau, acceptance, speed and equality of a head, measured in this process.

Every prompt is answered with the head and without it, one right after the other and in alternating
order, so that a slow moment of the machine affects both. On a busy machine only ratios of one run
mean anything.

S length of a prompt, T tokens of an answer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.prompts.suites import first_turn_ids
from eagle_hf.data.rows import Prompt
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.equality import Difference, first_difference
from eagle_hf.measuring.intervals import tau_interval
from eagle_hf.measuring.timing import timed
from eagle_hf.target import execution_device

WARM_UP_TOKENS = 4


@dataclass
class Answer:
    """One prompt's two answers.

    Args:
        prompt: the row that was answered, with `turns` and `category`.
        plain_ids: the target's answer alone, [T].
        fast_ids: its answer with the head, [T].
        plain_seconds: seconds of the whole call without the head.
        fast_seconds: seconds of the whole call with it.
        stats: rounds and acceptance of the call with the head.
        difference: where the answers part, None where they are equal.
    """

    prompt: Prompt
    plain_ids: torch.Tensor
    fast_ids: torch.Tensor
    plain_seconds: float
    fast_seconds: float
    stats: DecodingStats
    difference: Difference | None


@dataclass
class Summary:
    """A group of answers taken together.

    Args:
        prompts: how many.
        tau: mean tokens per round, the bonus included.
        tau_interval: its 95 % interval over prompts.
        alpha: acceptance by depth, given that the earlier drafts were accepted.
        plain_tokens_per_second: without the head. Speeds count new tokens over whole calls, the
            prefill included.
        fast_tokens_per_second: with the head.
        speedup: the ratio of both.
        identical: share of equal answers.
        ties: answers that differ by a tie.
        overhead_ms: milliseconds per round outside the forwards of target and head.
        overhead_share: the same as a share of a round; nan in files that are older than the field.
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
    overhead_share: float = float("nan")


def sampling_at(temperature: float) -> dict[str, Any]:
    """Translate a temperature into arguments of `generate`.

    Args:
        temperature: 0 is greedy.

    Returns:
        The arguments, {} for greedy decoding.
    """
    if not temperature:
        return {}
    return {"do_sample": True, "temperature": temperature, "top_k": 0}


def evaluate(
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    head: Any,
    prompts: list[Prompt],
    *,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: bool = True,
    **sampling: Any,
) -> list[Answer]:
    """Answer every prompt's first turn with the head and without it.

    Args:
        target: the causal LM.
        tokenizer: its tokenizer, with a chat template.
        head: what is given to `generate` as `assistant_model`.
        prompts: rows with `turns` and `category`, as `load_suite` returns them.
        max_new_tokens: tokens of an answer at most.
        seed: set before every call, so that sampled answers can be compared.
        progress: whether to show a progress bar.
        sampling: arguments of `generate`, see `sampling_at`. Default: greedy.

    Returns:
        One answer per prompt, in their order.

    Raises:
        ValueError: where there are no prompts.
    """
    settings = _generate_settings(tokenizer, prompts, max_new_tokens, sampling)
    _warm_up(target, head, _inputs(target, tokenizer, prompts[0]), settings)
    answers = []
    bar = tqdm(prompts, desc="evaluating", unit="prompt", disable=not progress)
    for number, prompt in enumerate(bar):
        inputs = _inputs(target, tokenizer, prompt)
        head_first = number % 2 == 1
        answers.append(_answer(target, head, prompt, inputs, settings, seed, head_first))
    return answers


def collect_stats(
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    head: Any,
    prompts: list[Prompt],
    *,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: bool = True,
    **sampling: Any,
) -> list[DecodingStats]:
    """Answer every prompt's first turn with the head alone, for tau and alpha without the speed.

    Args:
        target, tokenizer, head, prompts, max_new_tokens, seed, progress, sampling: as in
            `evaluate`.

    Returns:
        Rounds and acceptance of each prompt, in their order.

    Raises:
        ValueError: where there are no prompts.
    """
    settings = _generate_settings(tokenizer, prompts, max_new_tokens, sampling)
    runs = []
    for prompt in tqdm(prompts, desc="drafting", unit="prompt", disable=not progress):
        torch.manual_seed(seed)
        target.generate(**_inputs(target, tokenizer, prompt), assistant_model=head, **settings)
        runs.append(head.last_run)
    return runs


def _generate_settings(
    tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], max_new_tokens: int, sampling: dict
) -> dict[str, Any]:
    """The arguments that all calls of `generate` share; a ValueError without prompts."""
    if not prompts:
        raise ValueError(
            "there are no prompts to evaluate on; load some with eagle_hf.data.load_suite"
        )
    settings = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return settings | sampling


def _inputs(
    target: Any, tokenizer: PreTrainedTokenizerBase, prompt: Prompt
) -> dict[str, torch.Tensor]:
    """A prompt's first turn as `generate` takes it, on the target's device."""
    inputs = {}
    for name, tensor in first_turn_ids(tokenizer, prompt).items():
        inputs[name] = tensor.to(execution_device(target))  # [1, S]
    return inputs


def _warm_up(target: Any, head: Any, inputs: dict[str, torch.Tensor], settings: dict) -> None:
    """One short call of each kind: the first calls pay for allocations."""
    short = settings | {"max_new_tokens": WARM_UP_TOKENS}
    for assistant in (None, head):
        target.generate(**inputs, assistant_model=assistant, **short)


def _answer(
    target: Any,
    head: Any,
    prompt: Prompt,
    inputs: dict[str, torch.Tensor],
    settings: dict,
    seed: int,
    head_first: bool,
) -> Answer:
    """Both answers to one prompt, timed, and where they part."""
    # the scores judge a difference; keeping them costs the plain run nothing
    plain_settings = settings | {"return_dict_in_generate": True, "output_scores": True}
    if head_first:
        fast, fast_seconds = _timed_generate(target, head, inputs, settings, seed)
        plain, plain_seconds = _timed_generate(target, None, inputs, plain_settings, seed)
    else:
        plain, plain_seconds = _timed_generate(target, None, inputs, plain_settings, seed)
        fast, fast_seconds = _timed_generate(target, head, inputs, settings, seed)
    # a GPU draws its noise in another way, so a sampled run can be replayed on a CPU only
    can_replay = settings["do_sample"] and execution_device(target).type == "cpu"
    prompt_length = inputs["input_ids"].shape[1]
    return Answer(
        prompt=prompt,
        plain_ids=plain.sequences[0, prompt_length:],
        fast_ids=fast[0, prompt_length:],
        plain_seconds=plain_seconds,
        fast_seconds=fast_seconds,
        stats=head.last_run,
        difference=first_difference(plain, fast, seed if can_replay else None),
    )


def _timed_generate(
    target: Any, assistant: Any, inputs: dict[str, torch.Tensor], settings: dict, seed: int
) -> tuple[Any, float]:
    """What one call of `generate` returns, and its seconds."""
    outputs = []

    def run() -> None:
        outputs.append(target.generate(**inputs, assistant_model=assistant, **settings))

    torch.manual_seed(seed)
    seconds = timed(run, execution_device(target))
    return outputs[0], seconds


def summarise(answers: list[Answer]) -> Summary:
    """Take a group of answers together.

    Args:
        answers: as `evaluate` returns them, at least one.

    Returns:
        The summary, one line of a table.
    """
    stats = DecodingStats(rows=0)
    plain_tokens = 0
    fast_tokens = 0
    plain_seconds = 0.0
    fast_seconds = 0.0
    equal = 0
    ties = 0
    for answer in answers:
        stats = stats + answer.stats
        plain_tokens += len(answer.plain_ids)
        fast_tokens += len(answer.fast_ids)
        plain_seconds += answer.plain_seconds
        fast_seconds += answer.fast_seconds
        if answer.difference is None:
            equal += 1
        elif answer.difference.is_tie:
            ties += 1
    plain_speed = plain_tokens / plain_seconds
    fast_speed = fast_tokens / fast_seconds
    return Summary(
        prompts=len(answers),
        tau=stats.tau,
        tau_interval=tau_interval([answer.stats for answer in answers]),
        alpha=stats.alpha,
        plain_tokens_per_second=plain_speed,
        fast_tokens_per_second=fast_speed,
        speedup=fast_speed / plain_speed,
        identical=equal / len(answers),
        ties=ties,
        overhead_ms=1000 * stats.overhead,
        overhead_share=stats.overhead_share,
    )


def by_category(answers: list[Answer]) -> dict[str, Summary]:
    """Summarise the answers of every category.

    Args:
        answers: as `evaluate` returns them, at least one.

    Returns:
        A summary per category, in the order of their first answers, and "all".
    """
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.prompt["category"], []).append(answer)
    groups["all"] = answers
    summaries = {}
    for name, group in groups.items():
        summaries[name] = summarise(group)
    return summaries
