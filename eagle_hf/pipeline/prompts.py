"""The step `prompts`: user turns gathered, written by the target, filtered and mixed.

Turns that the target writes are kept part by part, because they take hours where there are many:
a killed run goes on behind the last whole part.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
    evenly_spread,
    gather_prompts,
    magpie_prompts,
    mix_prompts,
    read_prompts,
    select_prompts,
    with_categories,
    write_prompts,
)
from eagle_hf.data.prompts.magpie import normalize
from eagle_hf.data.rows import check_prompts
from eagle_hf.pipeline.executor import Metrics
from eagle_hf.pipeline.settings import DataConfig, PromptSettings
from eagle_hf.pipeline.target import RunTarget

# Turns that the target writes between two savings: minutes on a CPU, and as many of each topic
# where topics are seeds.
PART = 240
PART_SEEDS = 1_000_003  # between the seeds of two parts


def make_prompts(config: DataConfig, target: RunTarget, folder: Path) -> Metrics:
    """Collect the prompts of a run into folder/prompts.jsonl.

    Args:
        config: of the run.
        target: writes prompts where it is asked to; its tokenizer knows the special tokens.
        folder: exists. Parts of earlier runs are used.

    Returns:
        How many prompts there are, and how many each rule removed.

    Raises:
        ValueError: what cannot work, before anything is sampled; or no prompt is left.
    """
    settings = config.prompts
    # 1) What cannot be served is refused before anything is sampled.
    rules = _rules(settings, target.tokenizer)
    shares = _wanted_shares(settings)
    # 2) Gather, and let the target write.
    prompts = _gathered(settings)
    if settings.magpie:
        prompts += _sampled(config, target, folder)
    # 3) Choose.
    selection = select_prompts(prompts, rules)
    print(selection.summary())
    chosen = selection.prompts
    if shares:
        chosen = mix_prompts(
            with_categories(chosen), shares, settings.num_prompts, seed=settings.seed
        )
    write_prompts(folder / "prompts.jsonl", chosen)
    return {"gathered": len(prompts), "prompts": len(chosen)}


def _rules(settings: PromptSettings, tokenizer: Any) -> list[PromptRule]:
    """The rules that are asked for, the cheap ones first."""
    rules: list[PromptRule] = [
        LengthRule(max_characters=settings.max_characters),
        SpecialTokenRule(tokenizer),
    ]
    if not settings.keep_contaminated:
        rules.append(ContaminationRule())
    if settings.languages:
        rules.append(LanguageRule(settings.languages))
    if settings.near_duplicates is not None:
        rules.append(NearDuplicateRule(settings.near_duplicates))
    return rules


def _wanted_shares(settings: PromptSettings) -> dict[str, float]:
    """The share of each category, given or estimated; empty where every prompt is used."""
    if settings.mixture_log is None:
        return settings.mixture
    estimate = estimate_mixture(settings.mixture_log)
    print(f"{estimate.requests} requests, {len(estimate.skipped)} lines skipped")
    for category, share in estimate.shares.items():
        print(f"  {category}: {share:.3f} +- {estimate.margin(category):.3f}")
    return estimate.shares


def _gathered(settings: PromptSettings) -> list[Prompt]:
    """The prompts of all sources, of each the shortest and evenly spread."""
    if settings.shortest_share == 1:
        return gather_prompts(settings.sources, settings.per_source)
    prompts = []
    for source in settings.sources:
        found = sorted(gather_prompts([source]), key=_length)
        shortest = found[: int(settings.shortest_share * len(found))]
        prompts += evenly_spread(shortest, settings.per_source)
    # Sources that are read one by one may use an id twice.
    check_prompts(prompts)
    return prompts


def _length(prompt: Prompt) -> int:
    """Characters of a prompt's first turn."""
    return len(prompt["turns"][0])


def _sampled(config: DataConfig, target: RunTarget, folder: Path) -> list[Prompt]:
    """User turns that the target writes, part by part."""
    settings = config.prompts
    topics: Any = settings.magpie_topics or None
    if topics == ["seeds"]:
        topics = TOPIC_SEEDS
    prompts: list[Prompt] = []
    for number, start in enumerate(range(0, settings.magpie, PART)):
        path = folder / f"magpie-{number:05d}.jsonl"
        if not path.exists():
            part = magpie_prompts(
                target.model("batch"),
                target.tokenizer,
                min(PART, settings.magpie - start),
                seed=settings.seed + number * PART_SEEDS,
                max_new_tokens=settings.magpie_max_new_tokens,
                batch_size=settings.magpie_batch_size,
                topics=topics,
                template_arguments=TemplateArguments.read(config.chat_template_kwargs),
            )
            write_prompts(path, part)
        kept, _ = read_prompts(path)
        prompts += kept
    return _without_repeats(prompts)


def _without_repeats(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The prompts without those that an earlier part has too: a part knows only its own."""
    known = set()
    different = []
    for prompt in prompts:
        text = normalize(prompt["turns"][0])
        if text not in known:
            known.add(text)
            different.append(prompt)
    return different
