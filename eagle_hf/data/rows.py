"""What the rows of the data room hold, from user turns to the target's states.

    Prompt  --write_responses-->  Conversation  --prepare_examples-->  Example
    Example --capture_features--> CapturedExample (an Example with its TargetFeatures)

S tokens of one conversation, H hidden size of the target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch

REASONS_SHOWN = 3  # in an error about rows of which none is usable

TokenValues = Sequence[int] | torch.Tensor  # one value for each token, shape [S]


class Message(TypedDict):
    """One turn of a conversation, as chat templates expect it.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        content: the text of the turn, or a list of parts of text and images (see
            examples/images.py). None in an answer that only calls tools.
        reasoning_content: what the assistant thought before its answer; also called `reasoning`
            and `thinking`. Optional.
        tool_calls: the tools that the assistant calls, as OpenAI's API has them. Optional.
    """

    role: str
    content: str | list[dict[str, Any]] | None
    reasoning_content: NotRequired[str | None]
    tool_calls: NotRequired[list[dict[str, Any]] | None]


class ServedTurn(TypedDict):
    """One answer of the target, by token.

    Attributes:
        prompt_ids: what the target was given, whole. None where a server gave no ids.
        response_ids: what it said, its end-of-turn token included where it said one. None as above.
        finish_reason: "stop" or "tool_calls" where it ended its turn, "length" where it was cut.
        prompt_ids_from: where they come from: "served", "recovered" by tokenizing, or "missing".
            Optional: served.
        response_ids_from: as above.
        message_sha256: of the message beside them, so that an edited answer is not taken for the
            target's. Optional.
    """

    prompt_ids: list[int] | None
    response_ids: list[int] | None
    finish_reason: str
    prompt_ids_from: NotRequired[str]
    response_ids_from: NotRequired[str]
    message_sha256: NotRequired[str]


class Prompt(TypedDict):
    """User turns that wait for the target's answers.

    Attributes:
        id: unique within its file or dataset.
        turns: one or more user turns, in order.
        category: what the prompt is about; "other" where nothing says so.
        source: where the prompt comes from.
        system: system message of the conversation. Optional.
        tools: JSON schemas of the tools that may be called. Optional.
        chat_template_kwargs: variables of the chat template, such as `enable_thinking`. Optional.
    """

    id: str
    turns: list[str]
    category: str
    source: str
    system: NotRequired[str]
    tools: NotRequired[Any]
    chat_template_kwargs: NotRequired[Any]


class Conversation(TypedDict):
    """Messages that end with an answer of the target.

    Attributes:
        messages: alternating user and assistant turns, after an optional system message.
        id: unique within its dataset. Optional: a row without one is called by its number.
        images: what the image parts without an image of their own stand for. Optional.
        tools: as of the prompt. Optional.
        chat_template_kwargs: as of the prompt. Optional.
        served_turns: every answer by token, in their order. These are learnt; the messages are for
            people. Optional: rows from elsewhere have none, and are tokenised.
        format: of the row; absent in rows without `served_turns`.
        source: of the prompt. Optional.
        category: of the prompt. Optional.
    """

    messages: list[Message]
    id: NotRequired[str]
    images: NotRequired[list[Any]]
    tools: NotRequired[Any]
    chat_template_kwargs: NotRequired[Any]
    served_turns: NotRequired[list[ServedTurn]]
    format: NotRequired[int]
    source: NotRequired[str]
    category: NotRequired[str]


class Example(TypedDict):
    """A tokenized conversation that a draft head can be trained on.

    Attributes:
        id: of the conversation. Where it became several examples, ":answer-1" and so on stand
            behind it, see `conversation_id`.
        input_ids: tokens of the conversation, or of its beginning up to an answer, shape [S].
        loss_mask: 1 where `input_ids` at the same position is learnt, else 0, shape [S].
        index: number of the example in its dataset. Optional: the trainer and `Features` set it.
        image_inputs: of a conversation with images what the target's processor prepares beside the
            tokens, such as `pixel_values`, as a batch of one row. Optional.
    """

    id: str
    input_ids: TokenValues
    loss_mask: TokenValues
    index: NotRequired[int]
    image_inputs: NotRequired[dict[str, torch.Tensor]]


class CapturedExample(TypedDict):
    """One item of `Features`: an `Example` and the fields of its `TargetFeatures`, in one mapping.

    The mapping is flat because batches are collated name by name.
    """

    id: str
    index: int
    input_ids: torch.Tensor
    loss_mask: torch.Tensor
    aux_hidden_states: torch.Tensor
    hidden_states: torch.Tensor
    best: torch.Tensor
    log_normaliser: torch.Tensor


@dataclass(frozen=True)
class TargetFeatures:
    """What the target computes for the S tokens of a conversation, and training needs.

    While a batch is captured, its conversations stand one after another in the place of S.

    Attributes:
        aux_hidden_states: the target's three aux hidden states side by side, shape [S, 3H].
        hidden_states: final hidden states after the last norm, shape [S, H].
        best: argmax of the next-token distribution after each token, int64, shape [S].
        log_normaliser: log-sum-exp of all logits of `hidden_states`, float32, shape [S].
    """

    aux_hidden_states: torch.Tensor
    hidden_states: torch.Tensor
    best: torch.Tensor
    log_normaliser: torch.Tensor


class SkippedRow(NamedTuple):
    """A row that was left out, or one answer of a row whose others are used.

    Attributes:
        id: of the row, or "row-" and its number; with the number of the message where the others
            of the row are used.
        reason: why it was left out, as a sentence for a terminal.
    """

    id: str
    reason: str


class SkippedLine(NamedTuple):
    """A line of a prompt file, or a row of a dataset, that was left out.

    Attributes:
        line: its number; lines of a file count from 1, rows of a dataset from 0.
        reason: why it was left out, as a sentence for a terminal.
    """

    line: int
    reason: str


def first_reasons(skipped: Sequence[tuple[object, str]], none: str) -> str:
    """The first reasons of skipped rows on one line, or `none` where there were no rows."""
    reasons = [f"{name}: {reason}" for name, reason in skipped[:REASONS_SHOWN]]
    return "; ".join(reasons) or none


def question_of(prompt: Mapping[str, Any]) -> list[Any]:
    """What the target is asked: all that makes a prompt another one under the same id."""
    return [prompt.get(name) for name in ("turns", "system", "tools", "chat_template_kwargs")]


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that cannot be told apart, or have nothing to ask.

    Args:
        prompts: user turns that are to be answered.

    Raises:
        ValueError: there are none, one lacks a field, or two share an id.
    """
    if not prompts:
        raise ValueError(
            "there are no prompts to answer; get some from read_prompts or magpie_prompts"
        )
    ids = set()
    for number, prompt in enumerate(prompts):
        if not prompt.get("id") or not prompt.get("turns"):
            raise ValueError(
                f"prompt {number} has the keys {sorted(prompt)}; a prompt needs an 'id' and 'turns'"
            )
        if prompt["id"] in ids:
            raise ValueError(f"two prompts have the id {prompt['id']!r}; give each its own")
        ids.add(prompt["id"])


def check_tokenised(example: object, number: int) -> None:
    """Refuse what is no `Example`, such as a conversation that nobody has tokenised.

    Args:
        example: what arrived.
        number: its place among the examples.

    Raises:
        ValueError: it has no `input_ids` and `loss_mask`.
    """
    if isinstance(example, Mapping) and "input_ids" in example and "loss_mask" in example:
        return
    name = number
    found = describe_type(example)
    if isinstance(example, Mapping):
        name = example.get("id", number)
        found = f"a row of {', '.join(map(str, example)) or 'nothing'}"
    raise ValueError(
        f"example {name!r} is {found}; tokenised rows with input_ids and loss_mask are needed: "
        "examples, skipped = prepare_examples(target, tokenizer, rows)"
    )


def check_lengths(lengths: Mapping[str, int], limit: int) -> None:
    """Refuse conversations that are longer than the target's table of positions.

    Args:
        lengths: tokens of each conversation by its id.
        limit: positions that the target knows.

    Raises:
        ValueError: one is longer; the message names the first.
    """
    for name, length in lengths.items():
        if length > limit:
            raise ValueError(
                f"conversation {name!r} has {length} tokens and the target knows {limit} "
                "positions; leave it out: prepare_examples(target, tokenizer, rows) does"
            )


def describe_type(value: object) -> str:
    """What arrived instead of a list or mapping, for an error text."""
    if value == []:
        return "an empty list"
    return f"of type {type(value).__name__}"
