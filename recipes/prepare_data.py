"""Prompts in, conversations out: user turns from files and bundled sets, or the target's own.

The target answers every prompt; a head must learn this target's own words. Interrupted, the same
command goes on where it was.

Hardware: any that holds the target.
Duration: SmolLM2-135M in bfloat16 writes about 250 response tokens a second on 2 CPU cores;
          smollm2_data.yaml takes 10 minutes there.
Command:  python recipes/prepare_data.py --config recipes/configs/smollm2_data.yaml
Expected: OUTPUT/prompts.jsonl and OUTPUT/responses/conversations.jsonl; with smollm2_data.yaml
          about 150,000 response tokens.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl import TrlParser

from eagle_hf.data import (
    Prompt,
    TemplateArguments,
    gather_prompts,
    magpie_prompts,
    read_prompts,
    write_prompts,
    write_responses,
    write_run,
)
from eagle_hf.evaluation import TargetArguments, open_target

SHOWN_REASONS = 5


@dataclass
class DataArguments(TargetArguments):
    """What is asked, who answers, where it goes."""

    output_dir: str = field(metadata={"help": "Folder for prompts.jsonl and responses/."})
    target_dtype: str = field(
        default="auto",
        metadata={"help": "The target's dtype while it writes; auto: the fastest here."},
    )
    prompt_files: list[str] = field(
        default_factory=list, metadata={"help": ".jsonl files, or names of bundled sets."}
    )
    per_file: int | None = field(
        default=None, metadata={"help": "At most this many prompts of each file, evenly spread."}
    )
    magpie: int = field(default=0, metadata={"help": "User turns that the target itself writes."})
    magpie_topics: list[str] = field(
        default_factory=list, metadata={"help": "Topic hints for them."}
    )
    max_new_tokens: int = field(default=256, metadata={"help": "Longest response, in tokens."})
    batch_size: int = field(default=32, metadata={"help": "Conversations answered at once."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy."})
    seed: int = field(default=0, metadata={"help": "Of all sampling."})
    chat_template_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Variables of the chat template, a JSON object such as "
            "'{\"enable_thinking\": false}'."
        },
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Answer only this many prompts (smoke tests)."}
    )


def collect_prompts(
    arguments: DataArguments, target: Any, tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    """The prompts of output_dir/prompts.jsonl, made first where it does not exist yet."""
    path = Path(arguments.output_dir, "prompts.jsonl")
    if not path.exists():
        prompts = gather_prompts(arguments.prompt_files, arguments.per_file)
        if arguments.magpie:
            topics = arguments.magpie_topics or None
            prompts += magpie_prompts(
                target, tokenizer, arguments.magpie, seed=arguments.seed, topics=topics
            )
        write_prompts(path, prompts)
    kept, _ = read_prompts(path)
    return kept


def main() -> None:
    (arguments,) = TrlParser((DataArguments,)).parse_args_and_config()
    target, tokenizer = open_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.target_dtype,
        work="batch",
    )
    prompts = collect_prompts(arguments, target, tokenizer)
    if arguments.max_steps > 0:
        prompts = prompts[: arguments.max_steps]
    report = write_responses(
        target,
        tokenizer,
        prompts,
        Path(arguments.output_dir, "responses"),
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        temperature=arguments.temperature,
        seed=arguments.seed,
        template_arguments=TemplateArguments.read(arguments.chat_template_kwargs),
    )
    for name, reason in report.skipped[:SHOWN_REASONS]:
        print(f"skipped {name}: {reason}")
    metrics = asdict(report) | {"skipped": len(report.skipped)}
    write_run(arguments.output_dir, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
