"""A batch of prompts, asked and answered turn by turn.

Turn t of a conversation can only be asked once turn t - 1 is answered. So the whole batch goes
through its first turns, then through its second ones, and conversations with fewer turns wait.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle_hf.data.answers.sampling import batch_seed, generate_batch
from eagle_hf.data.rows import Conversation, Message, Prompt, ServedTurn
from eagle_hf.data.template import answer_text, decode_text, render_text, without_end
from eagle_hf.data.template_arguments import TemplateArguments
from eagle_hf.data.turns import ROW_FORMAT


@dataclass(frozen=True)
class AnswerSettings:
    """What stays the same from batch to batch.

    Attributes:
        target: answers.
        tokenizer: the target's, with a chat template.
        stop: tokens that end a turn.
        max_new_tokens: longest answer to one turn.
        temperature: 0 is greedy.
        seed: of all sampling.
        max_length: longest conversation that is asked for an answer, in tokens, answer included.
        arguments: of the template; a prompt's own win.
    """

    target: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop: set[int]
    max_new_tokens: int
    temperature: float
    seed: int
    max_length: int
    arguments: TemplateArguments = field(default_factory=TemplateArguments)


class PendingConversation:
    """One prompt on its way to becoming a conversation.

    Attributes:
        prompt: the user turns.
        messages: what has been said so far.
        turns: the answers so far, by token.
        ids: tokens of the rendered messages, up to the next answer.
        tokens: response tokens so far, end-of-turn tokens included.
        cut: responses that max_new_tokens stopped.
        failure: why no conversation comes of it; None while all is well.
    """

    def __init__(self, prompt: Prompt):
        self.prompt = prompt
        self.messages: list[Message] = []
        self.turns: list[ServedTurn] = []
        self.ids: list[int] = []
        self.tokens = 0
        self.cut = 0
        self.failure: str | None = None
        system = prompt.get("system")
        if system:
            self.messages.append({"role": "system", "content": system})

    def ask(self, turn: int, settings: AnswerSettings) -> None:
        """Render and tokenize up to the answer to a user turn; a failure where it does not fit."""
        self.messages.append({"role": "user", "content": self.prompt["turns"][turn]})
        tokenizer = settings.tokenizer
        try:
            arguments = settings.arguments.for_row(self.prompt)
            text = render_text(
                tokenizer, self.messages, add_generation_prompt=True, arguments=arguments
            )
        except ValueError as error:
            self.failure = str(error)
            return
        self.ids = tokenizer.encode(text, add_special_tokens=False)
        # A response may need all of max_new_tokens, and must not outgrow the target.
        needed = len(self.ids) + settings.max_new_tokens
        if needed > settings.max_length:
            self.failure = (
                f"the prompt's {len(self.ids)} tokens and {settings.max_new_tokens} new ones are "
                f"{needed}, more than max_length {settings.max_length}; "
                "shorten it or lower max_new_tokens"
            )

    def hear(self, turn: int, ids: list[int], settings: AnswerSettings) -> None:
        """Keep the target's answer: its ids as they are, and its text in the messages."""
        tokenizer = settings.tokenizer
        text = answer_text(tokenizer, ids, settings.stop)
        plain = decode_text(tokenizer, without_end(ids, settings.stop))
        is_last = turn + 1 == len(self.prompt["turns"])
        if not text.strip():
            self.failure = f"the response to turn {turn + 1} has zero tokens of text"
        elif plain != text and not is_last:
            self.failure = (
                f"the response to turn {turn + 1} has special tokens inside ({text!r:.60}): only "
                "the model's own parser knows what of it the next prompt shows; ask one turn"
            )
        self.messages.append({"role": "assistant", "content": text})
        # Without an end-of-turn token the response was cut at max_new_tokens.
        has_ended = ids[-1] in settings.stop
        finish_reason = "stop" if has_ended else "length"
        self.turns.append(
            {"prompt_ids": self.ids, "response_ids": ids, "finish_reason": finish_reason}
        )
        self.tokens += len(ids)
        self.cut += not has_ended

    def conversation(self) -> Conversation:
        """The finished conversation, as it is written to a file."""
        return {
            "format": ROW_FORMAT,
            "id": self.prompt["id"],
            "messages": self.messages,
            "served_turns": self.turns,
            "tools": _as_json_text(self.prompt.get("tools")),
            "chat_template_kwargs": _as_json_text(self.prompt.get("chat_template_kwargs")),
            "source": self.prompt.get("source", "other"),
            "category": self.prompt.get("category", "other"),
        }


def _as_json_text(value: Any) -> str:
    """A field as JSON text, "" where it is empty.

    Tables need one type in all rows, and would fill what one row lacks with the keys of others.
    """
    if not value:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def start_conversations(
    prompts: Sequence[Prompt], settings: AnswerSettings
) -> tuple[list[PendingConversation], list[PendingConversation]]:
    """Ask every first turn.

    Args:
        prompts: in any order.
        settings: of the run.

    Returns:
        `(pending, failed)`: the conversations that can be answered, in the order of their
        batches, and those whose first turn does not fit.
    """
    pending = []
    failed = []
    for prompt in prompts:
        conversation = PendingConversation(prompt)
        conversation.ask(0, settings)
        if conversation.failure:
            failed.append(conversation)
        else:
            pending.append(conversation)
    pending.sort(key=_size, reverse=True)
    return pending, failed


def _size(conversation: PendingConversation) -> tuple[int, int]:
    """Turns, then tokens of the first one: equal conversations share a batch, large ones go first.

    A batch that is too large for memory then fails at once.
    """
    return len(conversation.prompt["turns"]), len(conversation.ids)


def answer_batch(batch: Sequence[PendingConversation], settings: AnswerSettings) -> None:
    """Answer every turn of conversations that `start_conversations` began.

    Args:
        batch: conversations whose first turn is asked. They end with all their answers, or with a
            failure.
        settings: of the run.
    """
    most_turns = max(len(conversation.prompt["turns"]) for conversation in batch)
    for turn in range(most_turns):
        active = _active(batch, turn)
        # The first turns are asked already: they decided the batches.
        if turn > 0:
            for conversation in active:
                conversation.ask(turn, settings)
            active = _active(active, turn)
        if not active:
            return
        # Seeded by the ids: an interrupted run samples what a whole run would have sampled.
        names = [conversation.prompt["id"] for conversation in active]
        responses = generate_batch(
            settings.target,
            [conversation.ids for conversation in active],
            eos_token_ids=settings.stop,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=batch_seed(settings.seed, turn, *names),
        )
        for conversation, ids in zip(active, responses, strict=True):
            conversation.hear(turn, ids, settings)


def _active(batch: Sequence[PendingConversation], turn: int) -> list[PendingConversation]:
    """The conversations that have such a turn and have not failed."""
    active = []
    for conversation in batch:
        if conversation.failure is None and turn < len(conversation.prompt["turns"]):
            active.append(conversation)
    return active
