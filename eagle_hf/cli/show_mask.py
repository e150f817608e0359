"""`eagle-hf show-mask`: what a draft head would learn of a conversation, in colour."""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from eagle_hf.cli.command import Command
from eagle_hf.data.examples.masking import stored_eos_token_ids, tokenize_conversations
from eagle_hf.data.examples.reader import TRAIN_ON
from eagle_hf.data.examples.viewer import mask_page, show_mask
from eagle_hf.data.reading.conversations import load_conversations
from eagle_hf.data.rows import Example, SkippedRow
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.target.gguf import resolve
from eagle_hf.target.tokenizers import open_tokenizer


@dataclass(kw_only=True)
class ShowMaskArguments:
    """Which conversation, in whose tokens."""

    target: str = field(metadata={"help": "Hub id or folder of the target; no weights are read."})
    dataset: str = field(
        metadata={"help": "conversations.jsonl, its folder, or a hub dataset with messages."}
    )
    dataset_split: str = field(default="train", metadata={"help": "Of a hub dataset."})
    row: int = field(default=0, metadata={"help": "Number of the conversation, from 0."})
    tokenizer: str | None = field(
        default=None, metadata={"help": "Hub id or folder of another tokenizer."}
    )
    train_on: str = field(
        default="all", metadata={"help": "Answers that are learnt.", "choices": TRAIN_ON}
    )
    chat_template_kwargs: str | None = field(
        default=None, metadata={"help": "Variables of the chat template, a JSON object."}
    )
    html: Path | None = field(default=None, metadata={"help": "Write a page to this file instead."})

    def __post_init__(self) -> None:
        if self.row < 0:
            raise ValueError(f"row is {self.row}; rows are counted from 0")


def run(arguments: ShowMaskArguments) -> None:
    """Show every example that the conversation becomes, and what is left out."""
    name = arguments.tokenizer or arguments.target
    tokenizer = open_tokenizer(arguments.target, None, name, {})
    examples, skipped = _examples(arguments, tokenizer)
    for one in skipped:
        print(f"left out: {one.id}: {one.reason}")
    if arguments.html is not None:
        page = mask_page(tokenizer, examples)
        arguments.html.write_text(page, encoding="utf-8")
        print(f"{len(examples)} examples are shown in {arguments.html}")
        return
    for example in examples:
        learnt = sum(example["loss_mask"])
        print(f"{example['id']}: {len(example['input_ids'])} tokens, {learnt} learnt")
        print(show_mask(tokenizer, list(example["input_ids"]), list(example["loss_mask"])))


def _examples(
    arguments: ShowMaskArguments, tokenizer: Any
) -> tuple[list[Example], list[SkippedRow]]:
    """The examples of the conversation that was asked for."""
    rows: Any = load_conversations(arguments.dataset, arguments.dataset_split, streaming=True)
    row = next(islice(rows, arguments.row, None), None)
    if row is None:
        raise ValueError(
            f"row is {arguments.row} and {arguments.dataset} ends before it; give a smaller number"
        )
    return tokenize_conversations(
        [row],
        tokenizer,
        eos_token_ids=stored_eos_token_ids(resolve(arguments.target), tokenizer),
        max_length=None,
        train_on=arguments.train_on,
        template_arguments=TemplateArguments.read(arguments.chat_template_kwargs),
    )


COMMAND = Command(
    name="show-mask",
    summary="show which tokens of a conversation a draft head learns",
    arguments=ShowMaskArguments,
    run=run,
)
