"""Measure a head as its card reports it: every tree, dtype and temperature, by category.

Settings that were already measured with the same arguments are kept, so an interrupted command
goes on. Quote ratios of one entry only: its two ways took turns on the machine.

Hardware: any, with nothing else running.
Duration: for SmolLM2-135M on 2 CPU cores about a quarter of an hour in bfloat16, and as long for a
          quarter of the prompts in float32.
Command:  python recipes/evaluate.py --target smollm2 \\
              --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/evaluation
Expected: OUTPUT/metrics.json with one entry a setting, and a table of each on the screen. The
          figures of the command above are in the head's card.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from trl import TrlParser

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.data import Prompt, load_suite, with_template_variables, write_run
from eagle_hf.evaluation import (
    EvaluationArguments,
    MeasuredSetting,
    by_category,
    dtype_name,
    evaluate,
    markdown_table,
    measured_setting,
    open_head,
    open_target,
    rename_fingerprint,
    sampling_at,
    weights_fingerprint,
)
from eagle_hf.target import default_device, resolve_dtype


class Progress:
    """What was measured so far, kept in OUTPUT/measured.json."""

    def __init__(self, arguments: EvaluationArguments, fingerprint: str):
        self.path = Path(arguments.output_dir, "measured.json")
        # through JSON, as it comes back from the file
        asked = json.loads(json.dumps(asdict(arguments)))
        self.asked = asked | {"head_fingerprint": fingerprint}
        self.settings: list[MeasuredSetting] = []
        if self.path.is_file():
            measured = json.loads(self.path.read_text())
            if rename_fingerprint(measured["asked"]) != self.asked:
                raise ValueError(
                    f"{self.path} was measured with other arguments, or of another head; delete "
                    "it, or give another output_dir"
                )
            self.settings = measured["settings"]
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def holds(self, dtype: str, tree: str, temperature: float) -> bool:
        """Whether a setting was measured already."""
        for entry in self.settings:
            if (entry["dtype"], entry["tree"], entry["temperature"]) == (dtype, tree, temperature):
                return True
        return False

    def add(self, setting: MeasuredSetting) -> None:
        """Keep a setting; the file appears whole or not at all."""
        self.settings.append(setting)
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(json.dumps({"asked": self.asked, "settings": self.settings}))
        scratch.rename(self.path)


def named_trees(arguments: EvaluationArguments, saved: Eagle3DraftHead) -> dict[str, TreeConfig]:
    """The trees to measure, by their text."""
    trees = {}
    for text in arguments.trees:
        tree = saved.tree if text == "own" else TreeConfig.parse(text)
        trees[str(tree)] = tree
    return trees


def prompts_by_dtype(
    arguments: EvaluationArguments,
) -> Iterator[tuple[torch.dtype, list[Prompt]]]:
    """The dtypes to measure in, and the prompts of each; auto may name a dtype that is listed."""
    counts: dict[torch.dtype, int] = {}
    for name, count in arguments.per_category.items():
        dtype = resolve_dtype(name, default_device())
        counts[dtype] = max(count, counts.get(dtype, 0))
    for dtype, count in counts.items():
        prompts = load_suite(arguments.categories, count, arguments.leave_out)
        if arguments.max_steps > 0:
            prompts = prompts[: arguments.max_steps]
        yield dtype, prompts


def measure(
    arguments: EvaluationArguments,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    head: Eagle3DraftHead,
    prompts: list[Prompt],
    temperature: float,
) -> MeasuredSetting:
    """Measure one setting, and print its table."""
    answers = evaluate(
        target,
        tokenizer,
        head,
        prompts,
        max_new_tokens=arguments.max_new_tokens,
        **sampling_at(temperature),
    )
    summaries = by_category(answers)
    tree = str(head.tree)
    shown = {"dtype": dtype_name(target), "tree": tree, "temperature": temperature}
    print(f"\n{shown}\n{markdown_table(summaries)}", flush=True)
    return measured_setting(
        target,
        summaries,
        tree=tree,
        temperature=temperature,
        max_new_tokens=arguments.max_new_tokens,
        left_out=arguments.leave_out,
    )


def main() -> None:
    (arguments,) = TrlParser((EvaluationArguments,)).parse_args_and_config()
    saved = Eagle3DraftHead.from_pretrained(arguments.head, vocab_size=arguments.vocab_size)
    trees = named_trees(arguments, saved)
    fingerprint = weights_fingerprint(saved)
    progress = Progress(arguments, fingerprint)
    for dtype, prompts in prompts_by_dtype(arguments):
        target, tokenizer = open_target(
            arguments.target, arguments.adapter, tokenizer=arguments.tokenizer, dtype=dtype
        )
        prompts = with_template_variables(prompts, tokenizer, arguments.chat_template_kwargs)
        head = open_head(arguments.head, target, vocab_size=arguments.vocab_size)
        for (name, tree), temperature in product(trees.items(), arguments.temperatures):
            if progress.holds(dtype_name(target), name, temperature):
                continue
            head.tree = tree
            progress.add(measure(arguments, target, tokenizer, head, prompts, temperature))
    metrics = {"head_fingerprint": fingerprint, "settings": progress.settings}
    write_run(arguments.output_dir, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
