"""What the quickstart shows: tables, answers side by side, and the last screen."""

import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.prompts.suites import load_suite
from eagle_hf.evaluation import (
    Answer,
    Summary,
    by_category,
    evaluate,
    measured_setting,
    open_head,
    screen_table,
    weights_fingerprint,
    write_report,
)
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.measuring.machine_costs import machine_costs
from eagle_hf.provenance import dtype_name
from eagle_hf.quickstart.targets import TARGET, Targets

STEPS = 6
SCREEN = 78  # columns
COLUMN = 36  # columns of an answer that is shown beside another one
LINES = 5  # lines of such an answer
WORTH_IT = 1.03  # a smaller speed-up is explained


@dataclass(frozen=True)
class Show:
    """How much is measured.

    Args:
        fast_prompts: of each category, for the speed in the fastest dtype.
        exact_prompts: of each category, for equality in float32.
        fast_tokens: of each answer in the fastest dtype.
        exact_tokens: of each answer in float32.
    """

    fast_prompts: int
    exact_prompts: int
    fast_tokens: int
    exact_tokens: int


GLANCE = Show(fast_prompts=1, exact_prompts=1, fast_tokens=64, exact_tokens=24)
LOOK = Show(fast_prompts=4, exact_prompts=2, fast_tokens=64, exact_tokens=48)


def print_heading(step: int, text: str) -> None:
    """Print the heading of a step.

    Args:
        step: its number, from 1.
        text: what it does.
    """
    print(f"\n[{step}/{STEPS}] {text}", flush=True)


def show(saved: Path, report: Path, targets: Targets, amount: Show, started: float) -> None:
    """Show what a saved head does: its speed in the fastest dtype, equality in float32.

    Args:
        saved: folder of the head.
        report: folder for report.md, metrics.json and the plot.
        targets: the target.
        amount: how much is measured.
        started: `time.perf_counter()` at the start of the quickstart.
    """
    # 1) the speed
    target = targets.fastest_for("draft")
    head, answers = _answers(
        saved, target, targets.tokenizer, amount.fast_prompts, amount.fast_tokens
    )
    summaries = by_category(answers)
    setting = measured_setting(
        target,
        summaries,
        tree="by machine",
        temperature=0.0,
        max_new_tokens=amount.fast_tokens,
    )
    write_report(
        report,
        summaries,
        setting,
        head_fingerprint=weights_fingerprint(head),
        target=TARGET,
        head=str(saved),
    )
    print(f"\n{screen_table(summaries)}")

    # 2) equality
    exact_target = targets.in_dtype(torch.float32)
    exact = answers
    if exact_target is not target:
        print("\nNow in float32, where equality is a promise:")
        _, exact = _answers(
            saved, exact_target, targets.tokenizer, amount.exact_prompts, amount.exact_tokens
        )
    show_side_by_side(targets.tokenizer, exact)
    last_screen(saved, target, head, summaries["all"], exact, time.perf_counter() - started)


def _answers(
    saved: Path, target: Any, tokenizer: PreTrainedTokenizerBase, prompts: int, tokens: int
) -> tuple[Eagle3DraftHead, list[Answer]]:
    """The opened head, and the target's answers with and without it; prompts: of each category."""
    head = open_head(saved, target)
    questions = load_suite(per_category=prompts)
    return head, evaluate(target, tokenizer, head, questions, max_new_tokens=tokens)


def show_side_by_side(tokenizer: PreTrainedTokenizerBase, answers: list[Answer]) -> None:
    """Print the first lines of one answer per category, without the head and with it.

    Args:
        tokenizer: the target's.
        answers: as `evaluate` returns them.
    """
    first_answers: dict[str, Answer] = {}
    for answer in reversed(answers):
        first_answers[answer.prompt["category"]] = answer
    for category, answer in first_answers.items():
        print(f"\n{category}: {textwrap.shorten(answer.prompt['turns'][0], 70)}")
        left = _wrapped(tokenizer, answer.plain_ids)
        right = _wrapped(tokenizer, answer.fast_ids)
        print(f"  {'generate':<39}with the head")
        for number in range(max(len(left), len(right))):
            print(f"  {_line(left, number):<39}{_line(right, number)}")


def _wrapped(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor) -> list[str]:
    """The first lines of an answer, [T] token ids, in a narrow column."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return textwrap.wrap(str(text), COLUMN)[:LINES]


def _line(lines: list[str], number: int) -> str:
    """A line, empty where there are fewer."""
    return lines[number] if number < len(lines) else ""


def last_screen(
    saved: Path | str,
    target: Any,
    head: Eagle3DraftHead,
    fast: Summary,
    exact: list[Answer],
    seconds: float,
) -> None:
    """Print tau, speed, equality, and what to do next.

    Args:
        saved: folder of the head.
        target: the target in the fastest dtype.
        head: the head beside it.
        fast: what was measured with both.
        exact: the answers in float32.
        seconds: since the start of the quickstart.
    """
    name = dtype_name(target)
    exact_summary = by_category(exact)["all"]
    faster_plain = max(fast.plain_tokens_per_second, exact_summary.plain_tokens_per_second)
    over_faster = fast.fast_tokens_per_second / faster_plain
    print(f"\n{'=' * SCREEN}")
    print(
        f"tau: {fast.tau:.2f} tokens per round of the target ({fast.prompts} prompts never "
        f"trained on, {name}, greedy)"
    )
    print(
        f"speed: {fast.fast_tokens_per_second:.1f} tokens/s in {name}, "
        f"{fast.speedup:.2f}x generate; {exact_summary.speedup:.2f}x in float32\n"
        f"       {over_faster:.2f}x the faster of both dtypes without a head"
    )
    if fast.speedup < WORTH_IT:
        print(textwrap.fill(why_it_does_not_pay(target, head, fast.tau), SCREEN))
    _print_equality(exact)
    print(f"the head: {saved}  ({seconds / 60:.1f} minutes so far)")
    print(
        f'use it: head = Eagle3DraftHead.from_pretrained("{saved}")\n'
        "        target.generate(**inputs, assistant_model=head)"
    )


def _print_equality(answers: list[Answer]) -> None:
    """Whether the answers in float32 are equal, and where they are not; a tie is no difference."""
    has_errors = False
    parted = []
    for answer in answers:
        difference = answer.difference
        if difference is None:
            continue
        has_errors = has_errors or not difference.is_tie
        parted.append(
            f"  {answer.prompt['id']} parts at token {difference.position}, "
            f"top-2 gap {difference.gap:.1e}"
        )
    identical = "no" if has_errors else "yes"
    print(f"outputs identical: {identical} ({len(answers)} answers in float32)")
    for line in parted:
        print(line)


def why_it_does_not_pay(target: Any, head: Eagle3DraftHead, tau: float) -> str:
    """Say what verifying several tokens costs here, and what would pay.

    Args:
        target: the target.
        head: the head beside it.
        tau: what was measured.

    Returns:
        One sentence.
    """
    costs = machine_costs(target, head)
    cell = costs.at(1, 0)
    eight = cell.target[7] / cell.target[0]
    return (
        f"Speculation hardly pays here: reading 8 tokens costs {eight:.1f} times one, and a round "
        f"brings {tau:.2f}; it would with a CPU that computes in bfloat16 natively (AVX512-BF16, "
        "AMX), a GPU, or a head trained on more data."
    )
