"""One conversation becomes one example, or several: what is learnt is what the target said."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle_hf.data.examples.image_turns import has_images, image_turns
from eagle_hf.data.examples.images import ImageInputs
from eagle_hf.data.examples.turns import Turn, merge_turns, served_turns
from eagle_hf.data.rows import Example, SkippedRow
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.messages import check_messages
from eagle_hf.data.templates.rendered_turns import text_turns
from eagle_hf.data.templates.template import chat_template
from eagle_hf.data.templates.whole_text import WholeTokenizer

TRAIN_ON = ("all", "last_turn")
ANSWER = ":answer-"  # between a conversation's id and the number of one of its examples
ANSWER_NUMBER = re.compile(re.escape(ANSWER) + r"\d+$")


def too_long(length: int, max_length: int) -> str:
    """Why an example is left out, both lengths in tokens."""
    return (
        f"the conversation has {length} tokens and max_length is {max_length}; "
        "raise it or shorten the turns"
    )


def conversation_id(example_id: str) -> str:
    """Find out which conversation an example is of.

    Examples of one conversation share their beginning, so they belong to one side of a split.

    Args:
        example_id: the `id` of an `Example`.

    Returns:
        The id of its conversation; of most examples it is the same.
    """
    return ANSWER_NUMBER.sub("", example_id)


def check_train_on(train_on: str) -> None:
    """Refuse what is no choice of answers."""
    if train_on not in TRAIN_ON:
        raise ValueError(f"train_on is {train_on!r}; choose one of {', '.join(TRAIN_ON)}")


@dataclass(frozen=True)
class ConversationReader:
    """Makes examples of conversations, one by one.

    Attributes:
        tokenizer: the target's.
        stop: tokens that end a turn.
        max_length: longer examples are left out, in tokens. None: no limit.
        train_on: "all" answers, or the one of the "last_turn".
        arguments: of the template; a row's own win.
    """

    tokenizer: WholeTokenizer
    stop: frozenset[int]
    max_length: int | None
    train_on: str
    arguments: TemplateArguments

    def examples_of(
        self, name: str, row: Mapping[str, Any]
    ) -> tuple[list[Example], list[SkippedRow]]:
        """The examples of a row, and those of its answers that are left out.

        Raises:
            ValueError: the row is no conversation, or none of its answers can be learnt.
        """
        messages: Any = row.get("messages")
        check_messages(messages, are_rendered=row.get("served_turns") is None)
        turns, left_out, image_inputs = self._turns_of(name, row)
        groups = merge_turns(turns)
        examples: list[Example] = []
        for number, group in enumerate(groups, start=1):
            own_name = name if len(groups) == 1 else f"{name}{ANSWER}{number}"
            example = _example(own_name, group, image_inputs)
            length = len(example["input_ids"])
            if self.max_length is not None and length > self.max_length:
                left_out.append(SkippedRow(own_name, too_long(length, self.max_length)))
            else:
                examples.append(example)
        if not examples:
            raise ValueError(left_out[0].reason)
        return examples, left_out

    def _turns_of(
        self, name: str, row: Mapping[str, Any]
    ) -> tuple[list[Turn], list[SkippedRow], ImageInputs | None]:
        """The turns that are learnt, the answers that are left out, and the inputs of images."""
        messages = row["messages"]
        images = row.get("images") or ()
        if row.get("served_turns") is not None:
            turns, missing = served_turns(
                name,
                row,
                self.tokenizer.tokenizer,
                self.stop,
                last_only=self.train_on == "last_turn",
            )
            return turns, missing, None
        arguments = self.arguments.for_row(row)
        arguments.check_read_by(chat_template(self.tokenizer.processor, arguments.tools))
        if has_images(messages, images):
            turns, inputs = image_turns(
                self.tokenizer, messages, images, stop=self.stop, arguments=arguments
            )
            return self._chosen(turns), [], inputs
        answers = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                answers.append(index)
        turns, without_ids = text_turns(
            self.tokenizer, messages, self._chosen(answers), stop=self.stop, arguments=arguments
        )
        left_out = []
        for index, reason in without_ids:
            left_out.append(SkippedRow(f"{name}, message {index}", reason))
        return turns, left_out, None

    def _chosen(self, answers: list) -> list:
        """The answers that are learnt."""
        return answers[-1:] if self.train_on == "last_turn" else answers


def _example(name: str, turns: list[Turn], image_inputs: ImageInputs | None) -> Example:
    """One example of turns that go on from each other."""
    last = turns[-1]
    input_ids = last.prompt_ids + last.response_ids + last.closing_ids
    loss_mask = [0] * len(input_ids)
    for turn in turns:
        begin = len(turn.prompt_ids)
        count = len(turn.response_ids)
        loss_mask[begin : begin + count] = [1] * count
    example: Example = {"id": name, "input_ids": input_ids, "loss_mask": loss_mask}
    if image_inputs is not None:
        example["image_inputs"] = image_inputs
    return example
