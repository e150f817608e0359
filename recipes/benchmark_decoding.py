"""Decoding speed by batch and length against plain decoding, and against what the cost table promised.

Hardware: any, with nothing else running; for SmolLM2-135M on 2 CPU cores about half an hour a drafter.
Command:  python recipes/benchmark_decoding.py --target smollm2 --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/decoding
          python recipes/benchmark_decoding.py --target smollm2 --gammas 1 2 3 4 --output_dir outputs/self-speculation
          (with --plan FOLDER: the policies of eagle-hf plan --self-speculation --window 240 --out FOLDER too)
Expected: a table on the screen and OUTPUT/metrics.json. With a head: the best fixed tree for the cell (sequoia) and
`adaptive`, by the plan beside it (eagle-hf plan). Without one the target drafts for itself behind a window (MagicDec's table: batch x
length x gamma). Prompts are read once a cell, all ways take turns; speeds are medians, intervals are bootstrapped over repetitions.
Plain decoding is `generate`, and a loop over the target's forwards alone: `generate` copies its cache with every token, so that the promise,
which is relative to one forward, is held against the loop.
"""

import statistics
from dataclasses import asdict, dataclass, field

from trl import TrlParser

from eagle_hf import (
    Eagle3DraftHead,
    SelfSpeculation,
    TreeConfig,
    default_device,
    load_target,
    write_run,
)
from eagle_hf.data.suites import long_prompts
from eagle_hf.decoding.timing import identity, measure_costs
from eagle_hf.measuring.clock import HEADER, measure_cell
from eagle_hf.measuring.plans import TREES
from eagle_hf.planning.plan import Plan
from eagle_hf.provenance import machine


@dataclass
class BenchmarkArguments:
    """Who drafts for whom, in which cells."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    output_dir: str = field(metadata={"help": "Folder for metrics.json."})
    head: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a head with its plan.json; without one the target drafts for itself."
        },
    )
    plan: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a plan for that (eagle-hf plan --self-speculation): its policies are measured too."
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
    repeats: int = field(default=7, metadata={"help": "Times that every way decodes."})
    dtype: str = field(
        default="auto", metadata={"help": "Of target and head; auto: the fastest here."}
    )
    max_steps: int = field(default=-1, metadata={"help": "Only this many cells (smoke tests)."})


def drafting(arguments, target) -> tuple:
    """Who drafts, and the trees by name."""
    if arguments.head is None:
        chains, assistant = (
            {f"gamma {gamma}": TreeConfig("chain", depth=gamma) for gamma in arguments.gammas},
            SelfSpeculation(arguments.sinks, arguments.window),
        )
        if arguments.plan:
            assistant.plan = Plan.load(arguments.plan)
            assistant.plan.costs.check(identity(target, assistant))
        return assistant, chains | TREES if arguments.plan else chains
    head = (
        Eagle3DraftHead.from_pretrained(arguments.head, dtype=target.dtype).to(target.device).eval()
    )
    head.plan = Plan.load(arguments.head)
    head.plan.costs.check(identity(target, head))
    return head, TREES


def main():
    (arguments,) = TrlParser((BenchmarkArguments,)).parse_args_and_config()
    device = default_device()
    target, tokenizer = load_target(arguments.target, dtype=arguments.dtype, device=device)
    (assistant, trees), rows = drafting(arguments, target), []
    cells = [(batch, length) for batch in arguments.batches for length in arguments.lengths]
    print(HEADER, flush=True)
    for batch, length in cells[: arguments.max_steps] if arguments.max_steps > 0 else cells:
        ids = long_prompts(tokenizer, length, batch).to(device)
        costs = (
            assistant.plan.costs
            if assistant.plan
            else measure_costs(
                target, assistant, [batch], [length], tokens=(1, 2, 4, 8), widths=(1,)
            )
        )
        for row in measure_cell(
            target, assistant, trees, ids, arguments.new_tokens, arguments.repeats, costs
        ):
            rows.append(row)
            print(row, flush=True)
    for way in dict.fromkeys(row.way for row in rows):
        achieved, most = zip(
            *((row.achieved, row.interval[1] / row.promised) for row in rows if row.way == way)
        )
        print(
            f"{way}: {statistics.median(achieved):.2f} of the promise in the median cell; in the worst at most {min(most):.2f}",
            flush=True,
        )
    write_run(
        arguments.output_dir,
        asdict(arguments),
        {"machine": machine(target), "rows": [asdict(row) for row in rows]},
    )


if __name__ == "__main__":
    main()
