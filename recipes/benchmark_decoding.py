"""Decoding speed by batch and length, against plain decoding and a cost table's prediction.

With a head: the best fixed tree for the cell (sequoia) and `adaptive`, by the plan beside the head
(eagle-hf plan). Without one the target drafts for itself behind a window (MagicDec's table: batch x
length x gamma); with --plan FOLDER also by the policies of `eagle-hf plan --self-speculation
--window 240 --out FOLDER`.

Prompts are read once a cell, and all methods take turns. Speeds are medians, intervals are
bootstrapped over repetitions. Plain decoding is measured twice: `generate`, and a loop over the
target's forwards alone. `generate` copies its cache with every token; the prediction is relative to
one forward, so it is held against the loop.

Hardware: any, with nothing else running.
Duration: for SmolLM2-135M on 2 CPU cores about half an hour a drafter.
Command:  python recipes/benchmark_decoding.py --target smollm2 \\
              --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/decoding
          python recipes/benchmark_decoding.py --target smollm2 --gammas 1 2 3 4 \\
              --output_dir outputs/self-speculation
Expected: a table on the screen and OUTPUT/metrics.json.
"""

import statistics
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from trl import TrlParser

from eagle_hf import Plan, SelfSpeculation, TreeConfig
from eagle_hf.data import long_prompts, write_run
from eagle_hf.evaluation import VocabularyArguments, machine, open_head, open_target
from eagle_hf.measuring import HEADER, TREES, Speed, fingerprint, measure_cell, measure_costs

Trees = dict[str, TreeConfig]


@dataclass
class BenchmarkArguments(VocabularyArguments):
    """Who drafts for whom, in which cells."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    output_dir: str = field(metadata={"help": "Folder for metrics.json."})
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of another tokenizer; default: the target's."},
    )
    head: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a head with its plan.json; without one the target drafts for itself."
        },
    )
    plan: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a plan for that (eagle-hf plan --self-speculation): its policies "
            "are measured too."
        },
    )
    gammas: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4],
        metadata={"help": "Chains that the target drafts for itself."},
    )
    sinks: int = field(
        default=16, metadata={"help": "First tokens that the target's window keeps."}
    )
    window: int = field(default=240, metadata={"help": "Newest tokens that it keeps."})
    batches: list[int] = field(default_factory=lambda: [1, 4, 8], metadata={"help": "Rows."})
    lengths: list[int] = field(
        default_factory=lambda: [256, 2048, 8000], metadata={"help": "Prompt tokens of each row."}
    )
    new_tokens: int = field(
        default=64, metadata={"help": "Tokens decoded after them, until the first row has so many."}
    )
    repeats: int = field(default=7, metadata={"help": "Times that every method decodes."})
    dtype: str = field(
        default="auto", metadata={"help": "Of target and head; auto: the fastest here."}
    )
    max_steps: int = field(default=-1, metadata={"help": "Only this many cells (smoke tests)."})


def open_drafter(arguments: BenchmarkArguments, target: Any) -> tuple[Any, Trees]:
    """Who drafts, and the trees by name."""
    if arguments.head is not None:
        head = open_head(arguments.head, target, vocab_size=arguments.vocab_size)
        head.plan = load_plan(arguments.head, target, head)
        return head, TREES
    if arguments.vocab_size is not None:
        raise ValueError(
            f"vocab_size is {arguments.vocab_size}, which is of a head, and head is missing; leave "
            "it out"
        )
    assistant = SelfSpeculation(arguments.sinks, arguments.window)
    trees = {}
    for gamma in arguments.gammas:
        trees[f"gamma {gamma}"] = TreeConfig("chain", depth=gamma)
    if arguments.plan:
        assistant.plan = load_plan(arguments.plan, target, assistant)
        trees |= TREES
    return assistant, trees


def load_plan(folder: str, target: Any, assistant: Any) -> Plan:
    """A saved plan; a ValueError where it was made for other models or another machine."""
    plan = Plan.load(folder)
    plan.costs.check(fingerprint(target, assistant))
    return plan


def print_shares(speeds: list[Speed]) -> None:
    """What was measured as a share of what was predicted, over all cells."""
    for method in dict.fromkeys(speed.method for speed in speeds):
        shares = []
        upper_bounds = []
        for speed in speeds:
            if speed.method == method:
                shares.append(speed.achieved)
                upper_bounds.append(speed.interval[1] / speed.predicted)
        print(
            f"{method}: {statistics.median(shares):.2f} of the prediction in the median cell; in "
            f"the worst at most {min(upper_bounds):.2f}",
            flush=True,
        )


def main() -> None:
    (arguments,) = TrlParser((BenchmarkArguments,)).parse_args_and_config()
    target, tokenizer = open_target(
        arguments.target, tokenizer=arguments.tokenizer, dtype=arguments.dtype
    )
    assistant, trees = open_drafter(arguments, target)
    cells = list(product(arguments.batches, arguments.lengths))
    if arguments.max_steps > 0:
        cells = cells[: arguments.max_steps]
    speeds: list[Speed] = []
    print(HEADER, flush=True)
    for batch, length in cells:
        prompts = long_prompts(tokenizer, length, batch).to(target.device)  # [B, S]
        # without a plan, a short cost table of this cell gives the prediction
        if assistant.plan:
            costs = assistant.plan.costs
        else:
            costs = measure_costs(
                target, assistant, [batch], [length], tokens=(1, 2, 4, 8), widths=(1,)
            )
        measured = measure_cell(
            target, assistant, trees, prompts, arguments.new_tokens, arguments.repeats, costs
        )
        for speed in measured:
            speeds.append(speed)
            print(speed, flush=True)
    print_shares(speeds)
    metrics = {"machine": machine(target), "rows": [asdict(speed) for speed in speeds]}
    write_run(arguments.output_dir, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
