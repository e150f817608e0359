"""A few prompts answered with the stopwatch: what a whole run is planned from."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eagle_hf.data import (
    PrivacyFilter,
    Prompt,
    evenly_spread,
    load_prompts,
    magpie_prompts,
    write_prompts,
)
from eagle_hf.data.answers import CONVERSATIONS
from eagle_hf.data.reading.sources import open_rows
from eagle_hf.pipeline.examples import make_examples
from eagle_hf.pipeline.executor import Executor, Metrics
from eagle_hf.pipeline.inputs import Inputs
from eagle_hf.pipeline.local import privacy_settings
from eagle_hf.pipeline.looking import look_at_step
from eagle_hf.pipeline.records import GOES_ON, IS_DONE
from eagle_hf.pipeline.rows import count_lines, read_rows
from eagle_hf.pipeline.settings import DataConfig
from eagle_hf.pipeline.steps import BY_NAME


@dataclass(frozen=True)
class MeasuredSample:
    """What answering and reading a few prompts took, on the user's own machines.

    Attributes:
        prompts: that were answered.
        prompt_tokens: of all of them together.
        response_tokens: of all answers together.
        answer_seconds: of wall-clock time until all were answered.
        servers: that answered at once; 1 in process.
        conversation_bytes: on disk, of all of them together.
        read_tokens: that the target read for features; 0 where that was not measured.
        read_seconds: that it took.
        feature_bytes_per_token: of the states that are kept for training; 0 where none are.
    """

    prompts: int
    prompt_tokens: int
    response_tokens: int
    answer_seconds: float
    servers: int
    conversation_bytes: int
    read_tokens: int
    read_seconds: float
    feature_bytes_per_token: float


def count_prompts(inputs: Inputs) -> int:
    """How many prompts a run asks.

    Args:
        inputs: of the run. Where its prompts are not collected yet, their sources are counted;
            what filters would remove is not known then.

    Returns:
        The number.

    Raises:
        ValueError: a data set of the Hub is asked for whole, whose size nobody knows yet.
    """
    most = inputs.config.max_prompts
    if inputs.prompts().is_file():
        count = count_lines(inputs.prompts())
    else:
        count = _expected_prompts(inputs.config)
    return count if most is None else min(count, most)


def prompts_left(inputs: Inputs) -> int:
    """How many prompts of a run have no answer yet.

    Args:
        inputs: of the run.

    Returns:
        The number; all of `count_prompts` where the answers would be made again.

    Raises:
        ValueError: as there.
    """
    count = count_prompts(inputs)
    answered = inputs.output_of("answers")
    action = look_at_step(BY_NAME["answers"], inputs).verdict.action
    can_be_used = action in (IS_DONE, GOES_ON) and answered.is_file()
    if not can_be_used:
        return count
    asked = {row["id"] for row in inputs.asked_rows()}
    for row in read_rows(answered):
        asked.discard(row["id"])
    return len(asked)


def sample_prompts(inputs: Inputs, count: int) -> list[Prompt]:
    """Choose prompts like those of the run: evenly spread, or the first of each source.

    Args:
        inputs: of the run.
        count: most prompts.

    Returns:
        The prompts, not yet filtered where the run's own are not collected yet.
    """
    if inputs.prompts().is_file():
        rows, _ = load_prompts(inputs.prompts())
        return evenly_spread(rows, count)
    settings = inputs.config.prompts
    if not settings.sources:
        target = inputs.target
        return magpie_prompts(target.model("batch"), target.tokenizer, count, seed=settings.seed)
    prompts: list[Prompt] = []
    of_each = -(-count // len(settings.sources))  # rounded up
    for source in settings.sources:
        found, _ = load_prompts(source, limit=of_each)
        prompts += found
    return prompts[:count]


def measure_sample(inputs: Inputs, executor: Executor, prompts: Sequence[Prompt]) -> MeasuredSample:
    """Answer prompts into a temporary folder, and read the answers where features are made.

    Args:
        inputs: of the run, which is left as it is.
        executor: of the run.
        prompts: of the sample. Personal data is taken out of them first, where the run does so.

    Returns:
        What it took.

    Raises:
        ValueError: no prompt is left, or none could be answered.
    """
    config = inputs.config
    if "privacy" in config.steps:
        prompts = _without_personal_data(config, prompts)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        asked = folder / "prompts.jsonl"
        write_prompts(asked, prompts)
        answers = folder / "answers"
        answers.mkdir()
        answered = executor.answer_prompts(config, asked, answers)
        conversations = answers / CONVERSATIONS
        examples = make_examples(config, inputs.target, conversations, folder)
        read: Metrics = {"tokens": 0, "seconds": 0.0, "bytes": 0}
        if "features" in config.steps:
            local = replace(config, features=replace(config.features, output=None))
            rows = folder / "examples.jsonl"
            read = executor.capture_features(local, rows, str(folder / "features"))
        size = conversations.stat().st_size
    finished = answered["finished"]
    return MeasuredSample(
        prompts=finished,
        prompt_tokens=max(0, examples["tokens"] - answered["sampled_tokens"]),
        response_tokens=answered["sampled_tokens"],
        answer_seconds=answered["seconds"],
        servers=max(1, len(config.answers.servers)),
        conversation_bytes=size,
        read_tokens=read["tokens"],
        read_seconds=read["seconds"],
        feature_bytes_per_token=read["bytes"] / max(1, read["tokens"]),
    )


def _without_personal_data(config: DataConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts as the run's own step `privacy` would leave them; they may go to servers."""
    privacy = PrivacyFilter(privacy_settings(config))
    left = []
    for prompt in prompts:
        cleaned = privacy.filter_prompt(prompt)
        if cleaned is not None:
            left.append(cleaned)
    if not left:
        raise ValueError(
            f"the privacy rules leave none of the {len(prompts)} prompts of the sample; set a "
            "larger --sample, or other rules"
        )
    return left


def sample_size(config: DataConfig) -> int:
    """How many prompts keep everything busy that answers: fewer would seem slower than they are."""
    settings = config.answers
    if not settings.servers:
        return settings.batch_size
    return settings.concurrency * len(settings.servers)


def _expected_prompts(config: DataConfig) -> int:
    """Prompts of a run whose prompts are not collected yet."""
    settings = config.prompts
    if settings.num_prompts is not None:
        return settings.num_prompts
    count = settings.magpie
    for source in settings.sources:
        found = _prompts_of(source, settings.per_source)
        count += int(found * settings.shortest_share)
    return count


def _prompts_of(source: str, most: int | None) -> int:
    """Prompts that a source gives."""
    is_remote = open_rows(source).is_remote
    if is_remote:
        if most is not None:
            return most
        raise ValueError(
            f"how many prompts {source} holds is known once it is read; set prompts.per_source or "
            "max_prompts, or run --only prompts first"
        )
    found, _ = load_prompts(source)
    return len(found) if most is None else min(len(found), most)
