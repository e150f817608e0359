"""Measure a head as its card reports it: every tree, dtype and temperature asked for, both ways, by category.

Hardware: any; for SmolLM2-135M on 2 CPU cores about a quarter of an hour in bfloat16 and as long for a quarter of the prompts in float32.
Command:  python recipes/evaluate.py --target smollm2 --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/evaluation
Expected: OUTPUT/metrics.json with one entry a setting, and a table of each on the screen. Settings already measured with the same
arguments are kept, so an interrupted command goes on. Quote ratios of one entry only: its two ways took turns on the machine.
"""

import json
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

from trl import TrlParser

from eagle_hf import Eagle3DraftHead, TreeConfig, default_device, load_target, write_run
from eagle_hf.data.suites import load_suite
from eagle_hf.evaluation.offline import by_category, evaluate, sampling_at
from eagle_hf.evaluation.report import markdown_table, plain_results
from eagle_hf.provenance import dtype_name, machine, weights_fingerprint
from eagle_hf.target.dtypes import resolve_dtype


@dataclass
class EvaluationArguments:
    """Which head, for whom, in which settings, on how much."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    head: str = field(metadata={"help": "Folder or hub id of the draft head."})
    output_dir: str = field(metadata={"help": "Folder for metrics.json."})
    adapter: str | None = field(
        default=None, metadata={"help": "PEFT adapter laid over the target."}
    )
    categories: list[str] = field(
        default_factory=lambda: ["chat", "code", "math"],
        metadata={"help": "Bundled categories or .jsonl files."},
    )
    per_category: dict = field(
        default_factory=lambda: {"auto": 20, "float32": 5},
        metadata={
            "help": "Prompts of each category, by the dtypes to measure in; auto: the fastest here."
        },
    )
    leave_out: int = field(
        default=0,
        metadata={
            "help": "First leave out so many of each, evenly spread: those the head was chosen on."
        },
    )
    trees: list[str] = field(
        default_factory=lambda: ["own", "chain:4:1:4"],
        metadata={"help": "policy:depth:top_k:nodes, or the head's own."},
    )
    temperatures: list[float] = field(
        default_factory=lambda: [0.0, 1.0], metadata={"help": "0 is greedy."}
    )
    max_new_tokens: int = field(default=64, metadata={"help": "Tokens of each answer."})
    max_steps: int = field(
        default=-1, metadata={"help": "Answer only this many prompts (smoke tests)."}
    )


def measure(
    arguments: EvaluationArguments,
    target,
    tokenizer,
    head,
    prompts,
    tree: TreeConfig,
    setting: dict,
) -> dict:
    """One setting's results by category, with where they were measured."""
    head.tree = tree
    answers = evaluate(
        target,
        tokenizer,
        head,
        prompts,
        max_new_tokens=arguments.max_new_tokens,
        **sampling_at(setting["temperature"]),
    )
    summaries = by_category(answers)
    print(f"\n{setting}\n{markdown_table(summaries)}", flush=True)
    facts = {"max_new_tokens": arguments.max_new_tokens, "left_out": arguments.leave_out}
    return setting | facts | {"machine": machine(target), "results": plain_results(summaries)}


def main():
    (arguments,) = TrlParser((EvaluationArguments,)).parse_args_and_config()
    saved = Eagle3DraftHead.from_pretrained(arguments.head)
    trees = {
        str(tree): tree
        for tree in (
            saved.tree if text == "own" else TreeConfig.parse(text) for text in arguments.trees
        )
    }
    kept = Path(arguments.output_dir, "measured.json")
    asked = json.loads(json.dumps(asdict(arguments) | {"head_sha256": weights_fingerprint(saved)}))
    measured = json.loads(kept.read_text()) if kept.is_file() else {"asked": asked, "settings": []}
    if measured["asked"] != asked:
        raise ValueError(
            f"{kept} was measured with other arguments, or of another head; delete it, or give another output_dir"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    done = [
        {key: entry[key] for key in ("dtype", "tree", "temperature")}
        for entry in measured["settings"]
    ]
    device = default_device()
    counts = {}
    for name, count in arguments.per_category.items():
        dtype = resolve_dtype(name, device)
        counts[dtype] = max(count, counts.get(dtype, 0))
    for dtype, count in counts.items():
        prompts = load_suite(arguments.categories, count, arguments.leave_out)
        prompts = prompts[: arguments.max_steps] if arguments.max_steps > 0 else prompts
        target, tokenizer = load_target(
            arguments.target, arguments.adapter, dtype=dtype, device=device
        )
        head = Eagle3DraftHead.from_pretrained(arguments.head, dtype=target.dtype).to(device).eval()
        for tree, temperature in product(trees, arguments.temperatures):
            setting = {"dtype": dtype_name(target), "tree": tree, "temperature": temperature}
            if setting not in done:
                measured["settings"].append(
                    measure(arguments, target, tokenizer, head, prompts, trees[tree], setting)
                )
                scratch = kept.with_suffix(".tmp")
                scratch.write_text(json.dumps(measured))
                scratch.rename(kept)
    write_run(
        arguments.output_dir,
        asdict(arguments),
        {"head_sha256": asked["head_sha256"], "settings": measured["settings"]},
    )


if __name__ == "__main__":
    main()
