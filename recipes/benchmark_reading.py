"""Milliseconds that a verify round gains by reading the prefix where it lies, against transformers' own cache and attention.

Hardware: any, with nothing else running; for SmolLM2-135M on 2 CPU cores three minutes.
Command:  python recipes/benchmark_reading.py --target smollm2 --output_dir outputs/reading
Expected: a table on the screen and OUTPUT/metrics.json: medians of the same forward over a tree, in place, and with a cache that is
joined anew at every forward and keys that are repeated for every query head; both take turns.
"""

import statistics
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field

import torch
from trl import TrlParser

from eagle_hf import default_device, load_target, write_run
from eagle_hf.decoding.reading import reading_tree
from eagle_hf.decoding.timing import noise_cache, target_forward, timed
from eagle_hf.provenance import machine


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
def cell(target, batch: int, length: int, arguments: ReadingArguments) -> dict:
    """Medians of both ways, in milliseconds."""
    cache = noise_cache(target, batch, length)
    forwards = {"in_place": (cache, reading_tree), "copied": (cache.plain(), nullcontext)}
    ways = {
        name: target_forward(target, held, batch, length, arguments.tokens, reading)
        for name, (held, reading) in forwards.items()
    }
    seconds = {name: [] for name in ways}
    for _ in range(arguments.repeats + 1):
        for name, way in ways.items():
            seconds[name].append(timed(way, target.device))
    return {"batch": batch, "length": length} | {
        name: 1000 * statistics.median(times[1:]) for name, times in seconds.items()
    }


def main():
    (arguments,) = TrlParser((ReadingArguments,)).parse_args_and_config()
    target, _ = load_target(arguments.target, dtype=arguments.dtype, device=default_device())
    cells, rows = (
        [(batch, length) for batch in arguments.batches for length in arguments.lengths],
        [],
    )
    print(
        f"| batch | length | {arguments.tokens} tokens, in place | copied | gained |\n|---|---|---|---|---|",
        flush=True,
    )
    for batch, length in cells[: arguments.max_steps] if arguments.max_steps > 0 else cells:
        rows.append(row := cell(target, batch, length, arguments))
        print(
            f"| {batch} | {length} | {row['in_place']:.0f} ms | {row['copied']:.0f} ms | {row['copied'] - row['in_place']:.0f} ms |",
            flush=True,
        )
    write_run(arguments.output_dir, asdict(arguments), {"machine": machine(target), "rows": rows})


if __name__ == "__main__":
    main()
