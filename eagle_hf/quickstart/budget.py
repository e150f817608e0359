"""How many prompts this machine can answer within the quickstart's quarter of an hour."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.answers.sampling import generate_batch
from eagle_hf.data.examples.masking import eos_token_ids
from eagle_hf.data.prompts.suites import first_turn_ids, load_suite
from eagle_hf.quickstart.screens import LOOK
from eagle_hf.quickstart.targets import Targets

DEFAULT_MINUTES = 5.0
WHOLE_SECONDS = 14 * 60  # that all steps may take with the default training budget
LEAST_PROMPTS = 60
BATCH = 48  # prompts answered at once
RESPONSE_TOKENS = 160
MAGPIE_TOKENS = 64
# two short answers of a first batch, whose seconds tell what a prompt and a token cost here
PILOT_TOKENS = (2, 10)
TIMED_TOKENS = 8
PROMPT_TOKENS = 32  # of the prompt that one token is timed after


def affordable_prompts(
    kept: Path, targets: Targets, minutes: float, asked: int, started: float
) -> int:
    """Find how many of the prompts asked for this machine answers in time.

    The number is measured once and kept, so that an interrupted run goes on with the same prompts.

    Args:
        kept: the JSON file that keeps it.
        targets: the target.
        minutes: of training.
        asked: prompts at most.
        started: `time.perf_counter()` at the start of the quickstart.

    Returns:
        The number, at least LEAST_PROMPTS or all that were asked for.
    """
    if kept.is_file():
        known = json.loads(kept.read_text())
        if known["asked"] == asked:
            return known["count"]
    count = asked
    if asked > LEAST_PROMPTS:
        count = _prompts_in_time(targets, minutes, asked, started)
    scratch = kept.with_suffix(".tmp")
    scratch.write_text(json.dumps({"asked": asked, "count": count}))
    scratch.rename(kept)
    return count


def _prompts_in_time(targets: Targets, minutes: float, asked: int, started: float) -> int:
    """The prompts that fit into what other steps leave of the time."""
    target = targets.fastest_for("batch")
    prompts = []
    for question in load_suite(("code", "math"), BATCH // 2):
        ids = first_turn_ids(targets.tokenizer, question)["input_ids"]  # [1, S]
        prompts.append(ids[0].tolist())
    spent = time.perf_counter() - started
    training = 60 * minutes
    whole = WHOLE_SECONDS + training - 60 * DEFAULT_MINUTES
    left = whole - spent - training - look_seconds(targets)
    in_time = int(left / seconds_a_prompt(target, targets.tokenizer, prompts))
    return max(LEAST_PROMPTS, min(asked, in_time))


def seconds_a_prompt(
    target: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> float:
    """Estimate what one prompt costs, from a short batch.

    A third of the prompts is written by the target, every prompt is answered, and the target's
    states over prompt and answer are computed for training.

    Args:
        target: the target that answers.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt.

    Returns:
        Seconds.
    """
    stop = eos_token_ids(target, tokenizer)
    seconds = []
    for count in PILOT_TOKENS:
        began = time.perf_counter()
        generate_batch(target, prompts, eos_token_ids=stop, max_new_tokens=count)
        seconds.append(time.perf_counter() - began)
    short, long = PILOT_TOKENS
    rows = len(prompts)
    mean_length = sum(len(prompt) for prompt in prompts) / rows
    # 1) a new token of one row, and the prefill of one row
    token_seconds = max(0.0, seconds[1] - seconds[0]) / (long - short) / rows
    prefill_seconds = max(0.0, seconds[0] / rows - short * token_seconds)
    # 2) all that is done with a prompt
    answer_seconds = prefill_seconds + RESPONSE_TOKENS * token_seconds
    state_seconds = prefill_seconds + RESPONSE_TOKENS * prefill_seconds / mean_length
    # of three samples two make a prompt, and a third of the prompts is sampled
    magpie_seconds = MAGPIE_TOKENS * token_seconds / 2
    return answer_seconds + state_seconds + magpie_seconds


def look_seconds(targets: Targets) -> float:
    """Estimate the seconds of the last show and of measuring acceptance.

    Args:
        targets: the target, whose tokens are timed in both dtypes of the show.

    Returns:
        Seconds.
    """
    fast = LOOK.fast_prompts * LOOK.fast_tokens * _token_seconds(targets.fastest_for("draft"))
    exact_target = targets.in_dtype(torch.float32)
    exact = LOOK.exact_prompts * LOOK.exact_tokens * _token_seconds(exact_target)
    # three categories, each answered with the head and without it
    shown = 2 * 3 * (fast + exact)
    return 1.5 * shown


def _token_seconds(target: Any) -> float:
    """What one new token costs, from a short answer."""
    began = time.perf_counter()
    start = torch.full((1, PROMPT_TOKENS), 5, device=target.device)
    target.generate(
        start,
        attention_mask=torch.ones_like(start),
        max_new_tokens=TIMED_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    return (time.perf_counter() - began) / TIMED_TOKENS
