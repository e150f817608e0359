"""Turns answered by the target in this process, batch by batch.

Conversations are sorted by the length of their prompts, some batches at once, so that little of a
batch is padding. All of them are asked their first turns, then those that have one their second.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle_hf.data.answers.sampling import batch_seed, generate_batch
from eagle_hf.data.answers.turns import (
    SERVED,
    FailedTurn,
    FinishedTurn,
    OpenConversation,
    TurnRequest,
)
from eagle_hf.data.masking import eos_token_ids
from eagle_hf.data.template import decode_text, render_text
from eagle_hf.provenance import weights_fingerprint
from eagle_hf.target import context_length

SORTED_BATCHES = 16  # batches whose conversations are sorted together


class _Question(NamedTuple):
    """A turn that is ready to be answered."""

    conversation: OpenConversation
    request: TurnRequest
    ids: list[int]  # of the prompt


class TargetAnswerer:
    """Answers conversations with the target itself; an `Answerer`.

    Its token ids are those that the target read and sampled, so they count as served. What a model
    thinks first is part of its text here: nothing parses it.

    Args:
        target: the model that a draft head is trained for.
        tokenizer: its tokenizer, with a chat template.
        max_new_tokens: longest answer to one turn.
        batch_size: turns that are answered together.
        temperature: 0 is greedy.
        seed: of all sampling. What is sampled depends on the turns of a batch, so a run that was
            interrupted samples other answers than a whole one.
        max_length: most tokens of a prompt and `max_new_tokens` together. Default: the target's
            `max_position_embeddings`.

    Raises:
        ValueError: settings out of range, or neither `max_length` nor the target names a limit.
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
            conversations: taken some batches at a time.

        Yields:
            The turns of a batch as soon as it is finished.
        """
        waiting = iter(conversations)
        active = self._next_ones(waiting)
        while active:
            questions = []
            for conversation in active:
                question = self._ask(conversation)
                if isinstance(question, FailedTurn):
                    yield question
                else:
                    questions.append(question)
            questions.sort(key=_length, reverse=True)
            for start in range(0, len(questions), self.batch_size):
                batch = questions[start : start + self.batch_size]
                # In a thread, so that what is kept reaches the disk meanwhile.
                turns = await asyncio.to_thread(self._generate, batch)
                for question, turn in zip(batch, turns, strict=True):
                    question.conversation.hear(turn)
                    yield turn
            active = _unfinished(questions) or self._next_ones(waiting)

    def _next_ones(self, waiting: Iterable[OpenConversation]) -> list[OpenConversation]:
        """The conversations that are sorted together; none at the end."""
        return list(islice(waiting, SORTED_BATCHES * self.batch_size))

    def _ask(self, conversation: OpenConversation) -> _Question | FailedTurn:
        """Tokenize the next turn; a failure where it cannot be rendered or does not fit."""
        request = conversation.request()
        try:
            text = render_text(self.tokenizer, request.messages, add_generation_prompt=True)
        except ValueError as error:
            return FailedTurn(request.id, request.turn, str(error), is_final=True)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        # A response may need all of max_new_tokens, and must not outgrow the target.
        needed = len(ids) + self.max_new_tokens
        if needed > self.max_length:
            reason = (
                f"the prompt's {len(ids)} tokens and {self.max_new_tokens} new ones are "
                f"{needed}, more than max_length {self.max_length}; "
                "shorten it or lower max_new_tokens"
            )
            return FailedTurn(request.id, request.turn, reason, is_final=True)
        return _Question(conversation, request, ids)

    def _generate(self, batch: Sequence[_Question]) -> list[FinishedTurn]:
        """The answers to a batch, in its order."""
        names = [(question.request.id, question.request.turn) for question in batch]
        responses = generate_batch(
            self.target,
            [question.ids for question in batch],
            eos_token_ids=self.stop,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=batch_seed(self.seed, *names),
        )
        turns = []
        for question, ids in zip(batch, responses, strict=True):
            turns.append(self._finished(question, ids))
        return turns

    def _finished(self, question: _Question, ids: list[int]) -> FinishedTurn:
        """One answer."""
        has_ended = ids[-1] in self.stop
        return FinishedTurn(
            id=question.request.id,
            turn=question.request.turn,
            text=decode_text(self.tokenizer, ids),
            reasoning="",
            finish_reason="stop" if has_ended else "length",
            prompt_ids=question.ids,
            prompt_ids_from=SERVED,
            response_ids=ids,
            response_ids_from=SERVED,
            prompt_tokens=len(question.ids),
            sampled_tokens=len(ids),
            model=self.model,
        )


def _length(question: _Question) -> int:
    """Tokens of the prompt."""
    return len(question.ids)


def _unfinished(questions: Sequence[_Question]) -> list[OpenConversation]:
    """The conversations that have another turn."""
    conversations = [question.conversation for question in questions]
    return [conversation for conversation in conversations if not conversation.is_finished]
