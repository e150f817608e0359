"""Turns answered by the target in this process, batch by batch.

Conversations are sorted by the length of their prompts, some batches at once, so that little of a
batch is padding. All of them are asked their first turns, then those that have one their second.
Which turns share a batch depends only on the prompts that are left. A run that was interrupted
between two batches goes on to the samples of a whole run. Where it was killed while the turns of a
batch were kept, one after the other, the rest of that batch is a smaller batch and samples anew.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any, NamedTuple

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from eagle_hf.data.answers.parsing import AnswerParser
from eagle_hf.data.answers.sampling import batch_seed, generate_batch
from eagle_hf.data.answers.turns import (
    FailedTurn,
    FinishedTurn,
    OpenConversation,
    TurnRequest,
)
from eagle_hf.data.examples.images import tokenizer_of
from eagle_hf.data.examples.masking import eos_token_ids
from eagle_hf.data.examples.turns import SERVED
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import chat_template, render_text
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import context_length, execution_device

SORTED_BATCHES = 16  # batches whose conversations are sorted together


class _Question(NamedTuple):
    """A turn that is ready to be answered."""

    conversation: OpenConversation
    request: TurnRequest
    tools: list[dict[str, Any]] | None
    ids: list[int]  # of the prompt


class _Interrupt(StoppingCriteria):
    """Ends all responses once the run is interrupted: nothing else ends a thread."""

    def __init__(self) -> None:
        self._is_stopped = False

    def stop(self) -> None:
        """End them at the next token."""
        self._is_stopped = True

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        rows = len(input_ids)
        return torch.full((rows,), self._is_stopped, dtype=torch.bool, device=input_ids.device)


class TargetAnswerer:
    """Answers conversations with the target itself; an `Answerer`.

    Its token ids are those that the target read and sampled, so they count as served. Reasoning
    and tool calls are taken out of the text where the tokenizer says how (see parsing.py).

    Args:
        target: the model that a draft head is trained for.
        tokenizer: its tokenizer, with a chat template.
        max_new_tokens: longest answer to one turn.
        batch_size: turns that are answered together.
        temperature: 0 is greedy.
        seed: of all sampling.
        max_length: most tokens of a prompt and `max_new_tokens` together. Default: the target's
            `max_position_embeddings`.
        template_arguments: what the chat template is given beside the messages; a prompt's own
            win. Default: none, and today's date.

    Raises:
        ValueError: settings out of range, neither `max_length` nor the target names a limit, or
            the template reads no such variable.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int = 256,
        batch_size: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
        max_length: int | None = None,
        template_arguments: TemplateArguments | None = None,
    ):
        is_out_of_range = max_new_tokens < 1 or batch_size < 1 or temperature < 0
        if is_out_of_range:
            raise ValueError(
                f"max_new_tokens is {max_new_tokens}, batch_size {batch_size}, temperature "
                f"{temperature}; the first two must be at least 1, temperature at least 0"
            )
        limit = max_length or context_length(target)
        if limit is None:
            raise ValueError(
                "the target's config has no max_position_embeddings; pass max_length in tokens"
            )
        self.target = target
        self.tokenizer = tokenizer
        self.stop = eos_token_ids(target, tokenizer)
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.temperature = temperature
        self.seed = seed
        self.max_length = limit
        self.arguments = template_arguments or TemplateArguments()
        self.arguments.check_read_by(chat_template(tokenizer))
        self._parser = AnswerParser(tokenizer, self.stop)
        self._special = _special_texts(tokenizer)
        self._fingerprint = weights_fingerprint(target)

    @property
    def model(self) -> str:
        """The fingerprint of the target's weights: a folder that moved is the same target."""
        return self._fingerprint

    async def answer(
        self, conversations: Iterable[OpenConversation]
    ) -> AsyncGenerator[FinishedTurn | FailedTurn]:
        """Answer every turn that is left; see `Answerer`.

        Args:
            conversations: by their position. Some batches of them are taken at a time.

        Yields:
            The turns of a batch as soon as it is finished.
        """
        for _, window in groupby(conversations, self._window):
            active = list(window)
            while active:
                # Those that are behind first: an interrupted run left them there.
                turn = min(conversation.turn for conversation in active)
                questions = []
                for conversation in _at_turn(active, turn):
                    question = self._ask(conversation)
                    if isinstance(question, FailedTurn):
                        active.remove(conversation)
                        yield question
                    else:
                        questions.append(question)
                questions.sort(key=_length_and_id)
                for start in range(0, len(questions), self.batch_size):
                    batch = questions[start : start + self.batch_size]
                    turns = await self._generated(batch)
                    for question, answer in zip(batch, turns, strict=True):
                        question.conversation.hear(answer)
                        yield answer
                active = [one for one in active if not one.is_finished]

    def _window(self, conversation: OpenConversation) -> int:
        """Which conversations are sorted together: those of neighbouring prompts."""
        return conversation.position // (SORTED_BATCHES * self.batch_size)

    def _ask(self, conversation: OpenConversation) -> _Question | FailedTurn:
        """Tokenize the next turn; a failure where it cannot be rendered or does not fit."""
        request = conversation.request()
        fault = self._history_fault(request)
        if fault is not None:
            return FailedTurn(request.id, request.turn, fault, is_final=True)
        try:
            arguments = request.arguments(self.arguments)
            arguments.check_read_by(chat_template(self.tokenizer, arguments.tools))
            text = render_text(
                self.tokenizer, request.messages, add_generation_prompt=True, arguments=arguments
            )
        except ValueError as error:
            return FailedTurn(request.id, request.turn, str(error), is_final=True)
        ids = tokenizer_of(self.tokenizer).encode(text, add_special_tokens=False)
        # A response may need all of max_new_tokens, and must not outgrow the target.
        needed = len(ids) + self.max_new_tokens
        if needed > self.max_length:
            reason = (
                f"the prompt's {len(ids)} tokens and {self.max_new_tokens} new ones are "
                f"{needed}, more than max_length {self.max_length}; "
                "shorten it or lower max_new_tokens"
            )
            return FailedTurn(request.id, request.turn, reason, is_final=True)
        return _Question(conversation, request, arguments.tools, ids)

    def _history_fault(self, request: TurnRequest) -> str | None:
        """Why a turn cannot be asked behind the answers before it; None where it can."""
        for message in request.messages:
            text = message["content"]
            if message["role"] != "assistant" or not isinstance(text, str):
                continue
            if any(special in text for special in self._special):
                return (
                    f"an earlier response has special tokens inside ({text!r:.60}): only the "
                    "model's own parser knows what of it the next prompt shows; set "
                    "tokenizer.response_template, or ask one turn"
                )
        return None

    async def _generated(self, batch: Sequence[_Question]) -> list[FinishedTurn]:
        """The answers to a batch, in its order."""
        interrupt = _Interrupt()
        try:
            # In a thread, so that what is kept reaches the disk meanwhile.
            return await asyncio.to_thread(self._generate, batch, interrupt)
        except asyncio.CancelledError:
            interrupt.stop()
            raise

    def _generate(self, batch: Sequence[_Question], interrupt: _Interrupt) -> list[FinishedTurn]:
        """The answers to a batch, or their beginnings where the run is interrupted."""
        names = [question.request.id for question in batch]
        with _current_device(execution_device(self.target)):
            responses = generate_batch(
                self.target,
                [question.ids for question in batch],
                eos_token_ids=self.stop,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                # Seeded by the ids: whatever ran before, this batch samples the same.
                seed=batch_seed(self.seed, batch[0].request.turn, *names),
                stopping_criteria=StoppingCriteriaList([interrupt]),
            )
        turns = []
        for question, ids in zip(batch, responses, strict=True):
            turns.append(self._finished(question, ids))
        return turns

    def _finished(self, question: _Question, ids: list[int]) -> FinishedTurn:
        """One answer."""
        parsed = self._parser.parse(question.ids, ids, question.tools)
        return FinishedTurn(
            id=question.request.id,
            turn=question.request.turn,
            text=parsed.text,
            reasoning=parsed.reasoning,
            finish_reason=self._finish_reason(ids, has_calls=bool(parsed.tool_calls)),
            prompt_ids=question.ids,
            prompt_ids_from=SERVED,
            response_ids=ids,
            response_ids_from=SERVED,
            prompt_tokens=len(question.ids),
            sampled_tokens=len(ids),
            model=self.model,
            tool_calls=parsed.tool_calls,
        )

    def _finish_reason(self, ids: list[int], has_calls: bool) -> str:
        """How an answer ended. Without an end-of-turn token it was cut at max_new_tokens."""
        if ids[-1] not in self.stop:
            return "length"
        return "tool_calls" if has_calls else "stop"


def _current_device(device: torch.device) -> AbstractContextManager:
    """Make a GPU the current one, which is a matter of each thread."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _at_turn(conversations: list[OpenConversation], turn: int) -> list[OpenConversation]:
    """The conversations whose next turn is that one."""
    return [conversation for conversation in conversations if conversation.turn == turn]


def _length_and_id(question: _Question) -> tuple[int, str]:
    """Long prompts first: a batch that is too large for memory fails at once. Ids part equals."""
    return -len(question.ids), question.request.id


def _special_texts(tokenizer: Any) -> list[str]:
    """The texts of all special tokens."""
    texts = []
    for token in tokenizer_of(tokenizer).added_tokens_decoder.values():
        if token.special:
            texts.append(token.content)
    return texts
