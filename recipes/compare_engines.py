"""Tokens per second of a target in several engines, plain and with its head, on the same prompts.

Every row of the table is a program in the engine's own environment (comparing/run_*.py). It opens
the models once, and answers every prompt several times, greedily and alone. The rows of one engine
and dtype take turns, and never run at the same time. What is not named there is as the engine sets
it.

tokens/s counts from the first new token to the last. A prompt's speed is the median over its
repeats, a row's the median over prompts; intervals are bootstrapped over prompts. Text is compared
with plain decoding of the same engine and dtype.

An engine that is missing or fails is a row that says why; what it printed is in OUTPUT/logs. Single
timings are kept as they are made, in OUTPUT/timings.jsonl.

The row "int8" needs torchao, and is of another target: plain decoding of the same weights is what
its drafts are compared with.

Hardware: any CPU, with nothing else running. Disk: 6 GB for the engines' environments (Linux
          x86-64), and 3 GB for converted models while it runs.
Duration: for SmolLM2-135M on 2 CPU cores about 50 minutes, and 5 minutes for the environments.
Command:  python tests/engines/environments.py llamacpp openvino vllm
          python recipes/compare_engines.py --target smollm2 \\
              --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/engines
Expected: the table on the screen and in OUTPUT/table.md, its numbers in OUTPUT/metrics.json.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import torch
from comparing.rows import Row, Setup, fastest_generate, summarise, table
from comparing.workers import EngineFailure, Worker
from trl import TrlParser

from eagle_hf.data import eos_token_ids, first_turn_ids, load_suite, write_run
from eagle_hf.evaluation import machine, open_target
from eagle_hf.target import gguf_file

DRIVERS = Path(__file__).parent / "comparing"
CHOSEN_BY_COST = {"tree by machine": {}}
SMALL_TREE = {"tree of 7": {"depth": 3, "top_k": 4, "nodes": 7}}


SETUPS = (
    Setup("eagle_hf", "float32", "eager"),
    Setup("eagle_hf", "bfloat16", "eager"),
    Setup("eagle_hf", "float32", "compiled"),
    Setup("eagle_hf", "bfloat16", "compiled"),
    Setup("eagle_hf", "int8", "compiled"),
    Setup("llamacpp", "float32", "native"),
    Setup("llamacpp", "float16", "native"),
    Setup("llamacpp", "quantised", "native"),
    Setup("openvino", "float32", "native"),
    Setup("openvino", "bfloat16", "native"),
    Setup("vllm", "float32", "compiled"),
    Setup("vllm", "bfloat16", "compiled"),
)
ENGINES = tuple(dict.fromkeys(setup.engine for setup in SETUPS))


@dataclass
class CompareArguments:
    """Which engines, on which prompts."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    head: str = field(metadata={"help": "Folder of the draft head."})
    output_dir: str = field(metadata={"help": "Folder for results, logs and converted models."})
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of another tokenizer; default: the target's."},
    )
    engines: list[str] = field(
        default_factory=lambda: list(ENGINES), metadata={"help": f"Of {', '.join(ENGINES)}."}
    )
    environments: str = field(
        default="build/engines",
        metadata={"help": "Folder with a virtual environment for each of the other engines."},
    )
    prompts: int = field(default=6, metadata={"help": "Held-out prompts of each category."})
    new_tokens: int = field(default=64, metadata={"help": "Tokens of each answer at most."})
    repeats: int = field(default=3, metadata={"help": "Times that every prompt is answered."})
    chain: int = field(default=3, metadata={"help": "Drafts a round in engines without trees."})
    threads: int = field(default=2, metadata={"help": "Threads of every engine."})

    def __post_init__(self) -> None:
        for engine in self.engines:
            if engine not in ENGINES:
                raise ValueError(
                    f"engines has {engine!r}; take of {', '.join(ENGINES)}, or leave it out for all"
                )


def drafters(engine: str, depth: int) -> dict[str, dict[str, int] | None]:
    """What is drafted in an engine, by name: nothing, and all that it knows to draft."""
    found: dict[str, dict[str, int] | None] = {"plain": None}
    if engine == "eagle_hf":
        return found | CHOSEN_BY_COST
    found[f"chain of {depth}"] = {"depth": depth}
    if engine == "openvino":
        found |= SMALL_TREE
    return found


def shared_settings(
    target: Any, tokenizer: Any, folder: Path, arguments: CompareArguments
) -> dict[str, Any]:
    """What all engines are told; target and tokenizer are saved in `folder` for them."""
    target.save_pretrained(folder / "target")
    tokenizer.save_pretrained(folder / "target")
    gguf = gguf_file(arguments.target)
    return {
        "target": str(folder / "target"),
        "gguf": None if gguf is None else str(gguf.resolve()),
        "stop": sorted(eos_token_ids(target, tokenizer)),
        "new_tokens": arguments.new_tokens,
        "threads": arguments.threads,
        "work": str(folder),
    }


def prompt_ids(tokenizer: Any, per_category: int) -> list[list[int]]:
    """Held-out prompts by token."""
    prompts = []
    for prompt in load_suite(per_category=per_category):
        prompts.append(first_turn_ids(tokenizer, prompt)["input_ids"][0].tolist())
    return prompts


def open_worker(
    row: Row, drafts: dict[str, int] | None, settings: dict[str, Any], arguments: CompareArguments
) -> Worker:
    """The engine of a row; an EngineFailure where it cannot be opened."""
    setup = row.setup
    if setup.dtype == "quantised" and settings["gguf"] is None:
        raise EngineFailure("the target was not made from a GGUF file")
    name = "-".join([setup.engine, setup.dtype, setup.mode, row.drafts]).replace(" ", "-")
    logs = Path(arguments.output_dir) / "logs"
    logs.mkdir(exist_ok=True)
    file = logs / f"{name}.json"
    head = None if drafts is None else str(Path(arguments.head).resolve())
    own = {"head": head, "drafts": drafts, "dtype": setup.dtype, "mode": setup.mode}
    file.write_text(json.dumps(settings | own, indent=1))
    python = sys.executable
    if setup.engine != "eagle_hf":
        python = str(Path(arguments.environments).absolute() / setup.engine / "bin" / "python")
    command = [python, str(DRIVERS / f"run_{setup.engine}.py"), str(file)]
    return Worker(command, file.with_suffix(".log"), arguments.threads)


def measure(
    setup: Setup,
    settings: dict[str, Any],
    prompts: list[list[int]],
    arguments: CompareArguments,
    timings: TextIO,
) -> list[Row]:
    """The rows of one engine and dtype, which take turns prompt by prompt."""
    rows = []
    workers: list[tuple[Row, Worker]] = []
    for name, drafts in drafters(setup.engine, arguments.chain).items():
        row = Row(setup, name, [[] for _ in prompts])
        rows.append(row)
        try:
            worker = open_worker(row, drafts, settings, arguments)
            workers.append((row, worker))
            row.versions = worker.versions
            worker.ask(prompts[0])  # warms up
        except EngineFailure as failure:
            row.failure = str(failure)
    try:
        for repeat in range(arguments.repeats):
            for number, prompt in enumerate(prompts):
                take_turns(workers, number, prompt, timings)
                workers.reverse()  # so that no row always comes first
            print(f"{setup}: repeat {repeat + 1} of {arguments.repeats}", flush=True)
    finally:
        for _, worker in workers:
            worker.close()
    return rows


def take_turns(
    workers: list[tuple[Row, Worker]], number: int, prompt: list[int], timings: TextIO
) -> None:
    """Let every row answer a prompt, one after the other."""
    for row, worker in workers:
        if not row.is_measured:
            continue
        try:
            answer = worker.ask(prompt)
            if answer["tokens"] < 2:
                raise EngineFailure(f"prompt {number} has an answer of one token: nothing to time")
        except EngineFailure as failure:
            row.failure = str(failure)
            continue
        row.answers[number].append(answer)
        line = asdict(row.setup) | {"drafts": row.drafts, "prompt": number} | answer
        timings.write(json.dumps(line) + "\n")
        timings.flush()


def summarise_all(rows: list[list[Row]]) -> list[dict[str, Any]]:
    """The numbers of all rows, which are grouped by setup with the plain one first."""
    generate = fastest_generate(chain.from_iterable(rows))
    summaries = []
    for of_setup in rows:
        for row in of_setup:
            summaries.append(summarise(row, of_setup[0], generate))
    return summaries


def main() -> None:
    (arguments,) = TrlParser((CompareArguments,)).parse_args_and_config()
    torch.set_num_threads(arguments.threads)
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    target, tokenizer = open_target(
        arguments.target, tokenizer=arguments.tokenizer, dtype="float32"
    )
    prompts = prompt_ids(tokenizer, arguments.prompts)
    where = machine(target)
    rows: list[list[Row]] = []
    summaries = []
    with (
        TemporaryDirectory(dir=output.resolve(), prefix="models-") as folder,
        (output / "timings.jsonl").open("w") as timings,
    ):
        settings = shared_settings(target, tokenizer, Path(folder), arguments)
        del target  # its memory is the engines' from here on
        for setup in SETUPS:
            if setup.engine not in arguments.engines:
                continue
            rows.append(measure(setup, settings, prompts, arguments, timings))
            summaries = summarise_all(rows)
            (output / "table.md").write_text(table(summaries))
    print(table(summaries))
    write_run(output, asdict(arguments), {"machine": where, "rows": summaries})


if __name__ == "__main__":
    main()
