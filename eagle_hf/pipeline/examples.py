"""The steps `conversations` and `examples`: which answers are kept, and what is learnt of them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eagle_hf.data import Example, SkippedRow, TemplateArguments, load_conversations
from eagle_hf.data.examples.masking import conversation_reader, stream_conversations
from eagle_hf.pipeline.executor import Executor, Metrics
from eagle_hf.pipeline.rows import count_lines, print_reasons, read_rows, write_rows
from eagle_hf.pipeline.settings import DataConfig
from eagle_hf.pipeline.target import RunTarget


def make_conversations(
    config: DataConfig, asked: Path, answered: Path, folder: Path, executor: Executor
) -> Metrics:
    """Keep the answers to the prompts of this run, and only those without personal data.

    Args:
        config: of the run.
        asked: JSON lines of this run's prompts.
        answered: JSON lines of conversations, to these prompts and perhaps to others.
        folder: exists. It gets conversations.jsonl.
        executor: filters.

    Returns:
        How many there are, and how many answer no prompt of this run.
    """
    counts: Counter[str] = Counter()
    path = folder / answered.name
    if "privacy" not in config.steps:
        kept = write_rows(path, _answers_to(asked, answered, counts))
        return {"conversations": kept, **counts}
    # In a folder of its own, because a stage reads and writes files of one name.
    chosen = folder / "chosen"
    chosen.mkdir(exist_ok=True)
    write_rows(chosen / answered.name, _answers_to(asked, answered, counts))
    found = executor.filter_conversations(config, chosen / answered.name, folder)
    (chosen / answered.name).unlink()
    chosen.rmdir()
    return {"conversations": count_lines(path), **counts, "privacy": found}


def _answers_to(asked: Path, answered: Path, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The conversations that answer a prompt of this run, each prompt's once."""
    waiting = {row["id"] for row in read_rows(asked)}
    counts["of_other_prompts"] = 0
    for row in read_rows(answered):
        if row["id"] in waiting:
            waiting.remove(row["id"])
            yield row
        else:
            counts["of_other_prompts"] += 1
    counts["unanswered"] = len(waiting)


def make_examples(
    config: DataConfig, target: RunTarget, conversations: Path, folder: Path
) -> Metrics:
    """Tokenise conversations into folder/examples.jsonl, and count what is learnt.

    Args:
        config: of the run.
        target: whose tokenizer and limits count; its weights are not read.
        conversations: JSON lines of `Conversation` rows.
        folder: exists.

    Returns:
        Examples, tokens, learnt tokens, and answers that were left out.
    """
    total = count_lines(conversations)
    rows: Any = load_conversations(conversations, streaming=True)
    reader = conversation_reader(
        target.tokenizer,
        eos_token_ids=target.eos_token_ids(),
        max_length=target.length_limit(config.examples.max_length),
        train_on=config.examples.train_on,
        template_arguments=TemplateArguments.read(config.chat_template_kwargs),
    )
    skipped: list[SkippedRow] = []
    examples = stream_conversations(
        tqdm(rows, total=total, desc="examples", unit="conversation"),
        reader,
        skipped,
        config.examples.num_proc,
    )
    counts = ExampleCounts()
    write_rows(folder / "examples.jsonl", _counted_rows(examples, counts))
    metrics = asdict(counts) | {"skipped": len(skipped)}
    _print_statistics(counts, skipped)
    return metrics


@dataclass
class ExampleCounts:
    """What the masks say.

    Attributes:
        examples: how many there are.
        tokens: of all of them.
        learnt_tokens: of these, those that are learnt.
        longest: tokens of the longest example.
    """

    examples: int = 0
    tokens: int = 0
    learnt_tokens: int = 0
    longest: int = 0

    def count(self, row: dict[str, Any]) -> None:
        """Add an example."""
        length = len(row["input_ids"])
        self.examples += 1
        self.tokens += length
        self.learnt_tokens += sum(row["loss_mask"])
        self.longest = max(self.longest, length)


def _counted_rows(examples: Iterable[Example], counts: ExampleCounts) -> Iterator[dict[str, Any]]:
    """Examples as JSON holds them, counted as they pass."""
    for example in examples:
        row = _as_row(example)
        counts.count(row)
        yield row


def _as_row(example: Example) -> dict[str, Any]:
    """An example as JSON holds it."""
    return {
        "id": example["id"],
        "input_ids": [int(token) for token in example["input_ids"]],
        "loss_mask": [int(value) for value in example["loss_mask"]],
    }


def _print_statistics(counts: ExampleCounts, skipped: list[SkippedRow]) -> None:
    """Print what is learnt, and the first rows that are not."""
    share = counts.learnt_tokens / counts.tokens
    print(
        f"{counts.examples:,} examples, {counts.tokens:,} tokens, {counts.learnt_tokens:,} "
        f"({share:.0%}) learnt; the longest has {counts.longest:,}"
    )
    print_reasons("skipped", skipped)
