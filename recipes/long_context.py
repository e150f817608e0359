"""Tau of a head on long texts, with its whole cache and behind attention sinks and a window.

Hardware: any; for SmolLM2-135M on 2 CPU cores about a quarter of an hour.
Command:  python recipes/long_context.py --target smollm2 --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/long-context
Expected: a table on the screen and OUTPUT/metrics.json: tau by length for every window, with 95 % intervals over prompts, and the
difference to the whole cache prompt by prompt. A prompt is read once, for all windows.
"""

from dataclasses import asdict, dataclass, field

from trl import TrlParser

from eagle_hf import DecodingStats, Eagle3DraftHead, default_device, load_target, write_run
from eagle_hf.data.suites import long_prompts
from eagle_hf.decoding.dispatch import check_target
from eagle_hf.measuring.clock import Prompt, Started, run_on
from eagle_hf.measuring.intervals import tau_difference, tau_interval


@dataclass
class LongContextArguments:
    """Which head, for whom, at which lengths, behind which windows."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    head: str = field(metadata={"help": "Folder or hub id of the draft head."})
    output_dir: str = field(metadata={"help": "Folder for metrics.json."})
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


def behind(prompt: Prompt, head, window: tuple[int, int] | None, new_tokens: int) -> DecodingStats:
    """What the head did after a prompt, seeing this much of it."""
    head.window = window
    run = Started(prompt, head, new_tokens).run
    run_on(run)
    return run.statistics()


def main():
    (arguments,) = TrlParser((LongContextArguments,)).parse_args_and_config()
    device = default_device()
    target, tokenizer = load_target(arguments.target, dtype=arguments.dtype, device=device)
    head = (
        Eagle3DraftHead.from_pretrained(arguments.head, dtype=target.dtype, tree="saved")
        .to(device)
        .eval()
    )
    check_target(target, head)
    count, found = arguments.max_steps if arguments.max_steps > 0 else arguments.prompts, []
    print(
        "| length | window | tau | 95 % | against the whole cache, 95 % |\n|---|---|---|---|---|",
        flush=True,
    )
    for length in arguments.lengths:
        windows = [None, *((4, size - 4) for size in arguments.windows if size < length)]
        prompts = (
            Prompt(target, head, ids[None])
            for ids in long_prompts(tokenizer, length, count).to(device)
        )
        columns = list(
            zip(
                *(
                    [behind(prompt, head, window, arguments.max_new_tokens) for window in windows]
                    for prompt in prompts
                )
            )
        )
        for window, runs in zip(windows, columns):
            entry = {
                "length": length,
                "window": window,
                "tau": sum(runs, DecodingStats(rows=0)).tau,
                "interval": tau_interval(runs),
            }
            entry["difference"] = tau_difference(runs, columns[0]) if window else None
            found.append(entry)
            low, high = entry["difference"] or ("", "")
            against = f"{low:+.3f} to {high:+.3f}" if window else ""
            print(
                f"| {length} | {sum(window) if window else 'all'} | {entry['tau']:.2f} | {entry['interval'][0]:.2f}-{entry['interval'][1]:.2f} | {against} |",
                flush=True,
            )
    write_run(
        arguments.output_dir,
        asdict(arguments),
        {"trained_length": head.config.eagle_hf.get("trained_length"), "rows": found},
    )


if __name__ == "__main__":
    main()
