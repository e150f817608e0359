"""Milliseconds that a verify round gains by reading the prefix where it lies in the cache.

The same forward over a tree is timed twice: in place, and as transformers' own cache and attention
do it, with a cache that is joined anew at every forward and keys that are repeated for every query
head. Both take turns.

Hardware: any, with nothing else running.
Duration: for SmolLM2-135M on 2 CPU cores three minutes.
Command:  python recipes/benchmark_reading.py --target smollm2 --output_dir outputs/reading
Expected: a table of medians on the screen and OUTPUT/metrics.json.
"""

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import torch
from trl import TrlParser

from eagle_hf.data import write_run
from eagle_hf.evaluation import machine, open_target
from eagle_hf.measuring import Turns, noise_cache, target_forward, tree_attention


@dataclass
class ReadingArguments:
    """What is read, on top of how much."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    output_dir: str = field(metadata={"help": "Folder for metrics.json."})
    batches: list[int] = field(default_factory=lambda: [1, 8], metadata={"help": "Rows."})
    lengths: list[int] = field(
        default_factory=lambda: [2048, 8000], metadata={"help": "Tokens in the cache of each row."}
    )
    tokens: int = field(default=17, metadata={"help": "Tokens of a tree, the root among them."})
    repeats: int = field(default=9, metadata={"help": "Timings of each."})
    dtype: str = field(default="auto", metadata={"help": "Of the target; auto: the fastest here."})
    max_steps: int = field(default=-1, metadata={"help": "Only this many cells (smoke tests)."})


@torch.no_grad()
def measure_cell(
    target: Any, batch: int, length: int, arguments: ReadingArguments
) -> dict[str, float]:
    """Medians of both ways, in milliseconds."""
    cache = noise_cache(target, batch, length)
    tokens = arguments.tokens
    forwards = [
        target_forward(target, cache, batch, length, tokens, tree_attention),
        target_forward(target, cache.plain(), batch, length, tokens, nullcontext),
    ]
    turns = Turns(forwards, target.device)
    for _ in range(arguments.repeats + 1):  # the first turn warms up
        turns.take()
    in_place, copied = turns.medians()
    return {
        "batch": batch,
        "length": length,
        "in_place": 1000 * in_place,
        "copied": 1000 * copied,
    }


def main() -> None:
    (arguments,) = TrlParser((ReadingArguments,)).parse_args_and_config()
    target, _ = open_target(arguments.target, dtype=arguments.dtype)
    cells = list(product(arguments.batches, arguments.lengths))
    if arguments.max_steps > 0:
        cells = cells[: arguments.max_steps]
    measured = []
    print(f"| batch | length | {arguments.tokens} tokens, in place | copied | gained |")
    print("|---|---|---|---|---|", flush=True)
    for batch, length in cells:
        medians = measure_cell(target, batch, length, arguments)
        measured.append(medians)
        in_place = medians["in_place"]
        copied = medians["copied"]
        print(
            f"| {batch} | {length} | {in_place:.0f} ms | {copied:.0f} ms | "
            f"{copied - in_place:.0f} ms |",
            flush=True,
        )
    metrics = {"machine": machine(target), "rows": measured}
    write_run(arguments.output_dir, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
