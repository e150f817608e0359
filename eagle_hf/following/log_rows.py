"""One line of a log becomes examples: token ids, and a mask of what the target said.

    {"input_ids": [...], "loss_mask": [...]}                    tokenised rows, as `Example`
    {"prompt_token_ids": [...], "token_ids": [...]}             one request and its answer
    {"prompt_token_ids": [...], "choices": [{"token_ids": [...]}]}    an engine's whole answer
    {"messages": [...], "served_turns": [...], "format": 2}     what `eagle-hf data` writes

Messages alone are refused. Tokenising text may give other ids than the target sampled, and a head
that learns those learns what is never drafted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from eagle_hf.data.examples.masking import conversation_reader
from eagle_hf.data.examples.reader import ConversationReader
from eagle_hf.data.examples.tokenised_rows import unusable_reason
from eagle_hf.data.reading.lines import parse_line
from eagle_hf.data.rows import Example, describe_type

# Other reasons, such as "abort", mean that the answer is not whole.
FINISH_REASONS = (None, "stop", "length", "tool_calls")
NO_IDS = (
    "needed are input_ids and loss_mask, prompt_token_ids and token_ids, or messages with "
    "served_turns. Text alone is not learnt: let the service log token ids (vLLM and SGLang: "
    "return_token_ids), or answer the prompts anew with eagle-hf data"
)


@dataclass(frozen=True)
class Limits:
    """What of a target the rows are checked against, so that it need not be open.

    Attributes:
        vocabulary: ids that the target knows.
        max_length: longest conversation, in tokens; None for no limit.
        stop: tokens that end a turn.
    """

    vocabulary: int
    max_length: int | None
    stop: tuple[int, ...]


class Answered(NamedTuple):
    """A request by token, and what was answered."""

    prompt_ids: list[int]
    response_ids: list[int]


class RowReader:
    """Makes examples of the lines of a log.

    Args:
        limits: of the target.
        open_tokenizer: gives the target's tokenizer; called where a line holds served turns.
    """

    def __init__(self, limits: Limits, open_tokenizer: Callable[[], Any]):
        self.limits = limits
        self._open_tokenizer = open_tokenizer
        self._conversations: ConversationReader | None = None

    def read(self, name: str, line: bytes) -> list[Example]:
        """Make the examples of a line.

        Args:
            name: of the line, for a row without an id.
            line: of a JSON-lines file.

        Returns:
            At least one example.

        Raises:
            ValueError: the line cannot be learnt from; the text says why.
        """
        row = parse_line(line)
        if not isinstance(row, Mapping):
            raise ValueError(f"the row is of type {type(row).__name__}; {NO_IDS}")
        name = str(row.get("id") or name)
        examples = self._examples(name, row)
        for example in examples:
            self._check(example)
        return examples

    def _examples(self, name: str, row: Mapping[str, Any]) -> list[Example]:
        """The examples of a row of any kind, unchecked."""
        if row.get("image_inputs") is not None:
            raise ValueError("the row has images, which a log of token ids does not hold")
        if "input_ids" in row:
            mask = row.get("loss_mask")
            if not isinstance(mask, list) or not set(map(str, mask)) <= {"0", "1", "True", "False"}:
                raise ValueError(f"loss_mask is {describe_type(mask)}; a list of 0 and 1 is needed")
            return [{"id": name, "input_ids": row["input_ids"], "loss_mask": mask}]
        if row.get("served_turns") is not None:
            examples, _ = self._conversation_reader().examples_of(name, row)
            return examples
        return [_example(name, one) for one in _answers(row)]

    def _conversation_reader(self) -> ConversationReader:
        """The reader of served turns, made once."""
        if self._conversations is None:
            self._conversations = conversation_reader(
                self._open_tokenizer(),
                eos_token_ids=self.limits.stop,
                max_length=None,
                train_on="all",
                template_arguments=None,
            )
        return self._conversations

    def _check(self, example: Example) -> None:
        """Refuse ids that the target does not know, and what nothing can be learnt from."""
        ids = example["input_ids"]
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise ValueError(f"input_ids are {describe_type(ids)}; a list of integers is needed")
        for token in ids:
            if not 0 <= token < self.limits.vocabulary:
                raise ValueError(
                    f"the token id {token} is none of the target's, which are 0 to "
                    f"{self.limits.vocabulary - 1}; is the log another model's?"
                )
        reason = unusable_reason(example, self.limits.max_length)
        if reason is not None:
            raise ValueError(reason)


def _answers(row: Mapping[str, Any]) -> list[Answered]:
    """The answers of a logged request."""
    choices = row.get("choices")
    if not isinstance(choices, list) or not choices:
        choices = [row]
    answers = []
    for choice in choices:
        if not isinstance(choice, Mapping):
            raise ValueError(f"a choice is of type {type(choice).__name__}; {NO_IDS}")
        prompt_ids = choice.get("prompt_token_ids") or row.get("prompt_token_ids")
        response_ids = choice.get("token_ids")
        if not isinstance(prompt_ids, list) or not isinstance(response_ids, list):
            raise ValueError(f"the row has the keys {list(row)}; {NO_IDS}")
        if not prompt_ids or not response_ids:
            raise ValueError(
                f"{len(prompt_ids)} tokens of prompt and {len(response_ids)} of answer; at least "
                "one of each is needed"
            )
        reason = choice.get("finish_reason")
        if reason not in FINISH_REASONS:
            raise ValueError(f"finish_reason is {reason!r}: the answer is not whole")
        answers.append(Answered(prompt_ids, response_ids))
    return answers


def _example(name: str, answered: Answered) -> Example:
    """The example of a request."""
    mask = [0] * len(answered.prompt_ids) + [1] * len(answered.response_ids)
    return {
        "id": name,
        "input_ids": answered.prompt_ids + answered.response_ids,
        "loss_mask": mask,
    }
