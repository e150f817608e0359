"""Tau of a head on long texts, with its whole cache and behind attention sinks and a window.

A prompt is read by the target once, for all windows.

Hardware: any.
Duration: for SmolLM2-135M on 2 CPU cores about a quarter of an hour.
Command:  python recipes/long_context.py --target smollm2 \\
              --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/long-context
Expected: a table on the screen and OUTPUT/metrics.json: tau by length for every window, with 95 %
          intervals over prompts, and the difference to the whole cache prompt by prompt.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from trl import TrlParser

from eagle_hf import DecodingStats, Eagle3DraftHead
from eagle_hf.data import long_prompts, write_run
from eagle_hf.evaluation import VocabularyArguments, open_head, open_target
from eagle_hf.measuring import (
    PrefilledPrompt,
    TimedRun,
    check_target,
    finish,
    tau_difference,
    tau_interval,
)

SINKS = 4
Window = tuple[int, int] | None  # (sinks, newest tokens), None for the whole cache


@dataclass
class LongContextArguments(VocabularyArguments):
    """Which head, for whom, at which lengths, behind which windows."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    head: str = field(metadata={"help": "Folder or hub id of the draft head."})
    output_dir: str = field(metadata={"help": "Folder for metrics.json."})
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of another tokenizer; default: the target's."},
    )
    lengths: list[int] = field(
        default_factory=lambda: [1000, 2000, 4000, 8000],
        metadata={"help": "Prompt lengths in tokens."},
    )
    windows: list[int] = field(
        default_factory=lambda: [256, 512, 1024],
        metadata={"help": "Tokens that a window keeps, 4 sinks among them."},
    )
    prompts: int = field(default=12, metadata={"help": "Prompts of each length."})
    max_new_tokens: int = field(default=48, metadata={"help": "Tokens of each answer."})
    dtype: str = field(
        default="auto", metadata={"help": "Of target and head; auto: the fastest here."}
    )
    max_steps: int = field(default=-1, metadata={"help": "Only this many prompts (smoke tests)."})


def windows_at(length: int, arguments: LongContextArguments) -> list[Window]:
    """The whole cache, and every window that is shorter than the text."""
    windows: list[Window] = [None]
    for size in arguments.windows:
        if size < length:
            windows.append((SINKS, size - SINKS))
    return windows


def decode(
    prompt: PrefilledPrompt, head: Eagle3DraftHead, window: Window, new_tokens: int
) -> DecodingStats:
    """Decode after a prompt, with the head behind a window."""
    head.window = window
    run = TimedRun(prompt, None, new_tokens).start()
    finish(run)
    return run.statistics()


def measure_length(
    target: Any,
    head: Eagle3DraftHead,
    prompts: torch.Tensor,
    windows: list[Window],
    new_tokens: int,
) -> list[list[DecodingStats]]:
    """Decode after prompts [P, S] behind every window; for each window a list over the prompts."""
    by_window: list[list[DecodingStats]] = [[] for _ in windows]
    for ids in prompts:
        prompt = PrefilledPrompt(target, head, ids[None])
        for window, stats in zip(windows, by_window, strict=True):
            stats.append(decode(prompt, head, window, new_tokens))
    return by_window


def summarise(
    length: int, window: Window, stats: list[DecodingStats], whole: list[DecodingStats]
) -> dict[str, Any]:
    """One line of the table; whole: the same prompts with the whole cache."""
    return {
        "length": length,
        "window": window,
        "tau": sum(stats, DecodingStats(rows=0)).tau,
        "interval": tau_interval(stats),
        "difference": tau_difference(stats, whole) if window else None,
    }


def print_line(line: dict[str, Any]) -> None:
    """Print one line of the table."""
    low, high = line["interval"]
    size: int | str = "all"
    against = ""
    if line["window"]:
        size = sum(line["window"])
        worst, best = line["difference"]
        against = f"{worst:+.3f} to {best:+.3f}"
    print(
        f"| {line['length']} | {size} | {line['tau']:.2f} | {low:.2f}-{high:.2f} | {against} |",
        flush=True,
    )


def main() -> None:
    (arguments,) = TrlParser((LongContextArguments,)).parse_args_and_config()
    target, tokenizer = open_target(
        arguments.target, tokenizer=arguments.tokenizer, dtype=arguments.dtype
    )
    head = open_head(arguments.head, target, tree="saved", vocab_size=arguments.vocab_size)
    check_target(target, head)
    count = arguments.max_steps if arguments.max_steps > 0 else arguments.prompts
    lines = []
    print("| length | window | tau | 95 % | against the whole cache, 95 % |")
    print("|---|---|---|---|---|", flush=True)
    for length in arguments.lengths:
        windows = windows_at(length, arguments)
        prompts = long_prompts(tokenizer, length, count).to(target.device)  # [P, S]
        by_window = measure_length(target, head, prompts, windows, arguments.max_new_tokens)
        for window, stats in zip(windows, by_window, strict=True):
            line = summarise(length, window, stats, by_window[0])
            lines.append(line)
            print_line(line)
    own_config = head.config.eagle_hf or {}
    metrics = {"trained_length": own_config.get("trained_length"), "rows": lines}
    write_run(arguments.output_dir, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
