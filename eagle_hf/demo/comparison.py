"""Two answers to one question as they grow: the target's alone, then the one with the head."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle_hf.demo.drafted_tree import DraftedTree
from eagle_hf.demo.models import DemoModels, Question
from eagle_hf.demo.pieces import Piece, TextPieces
from eagle_hf.demo.streams import Step
from eagle_hf.evaluation.equality import Difference, first_difference
from eagle_hf.target import execution_device


class GrowingAnswer:
    """An answer, step by step.

    Args:
        tokenizer: the target's.

    Attributes:
        pieces: its text, and which of it had been drafted.
        tokens: how many there are, the end token included.
        rounds: draft-verify-commit cycles.
        seconds: until the newest token, the prompt's reading included.
        tree: of the newest round that drafted something; None before.
        is_finished: whether nothing follows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.pieces: list[Piece] = []
        self.tokens = 0
        self.rounds = 0
        self.seconds = 0.0
        self.tree: DraftedTree | None = None
        self.is_finished = False
        self._text = TextPieces(tokenizer)
        self._tokens_in_rounds = 0

    @property
    def tau(self) -> float:
        """Mean tokens a round, the bonus token included; nan without rounds."""
        return self._tokens_in_rounds / self.rounds if self.rounds else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Of the call so far; nan before its first token."""
        return self.tokens / self.seconds if self.tokens else math.nan

    def add(self, step: Step) -> None:
        """Append what a forward of the target brought."""
        accepted = 0
        if step.tree is not None:
            accepted = len(step.tree.accepted)
            self.rounds += 1
            self._tokens_in_rounds += len(step.tokens)
            if len(step.tree.tokens) > 1:
                self.tree = step.tree
        for place, token in enumerate(step.tokens):
            depth = place + 1 if place < accepted else 0
            self._append(self._text.add(token), depth)
            self.tokens += 1
        self.seconds = step.seconds

    def finish(self) -> None:
        """Append what was held back."""
        self._append(self._text.rest(), 0)
        self.is_finished = True

    def _append(self, text: str, depth: int) -> None:
        if text:
            self.pieces.append(Piece(text, depth, self.tokens))


@dataclass
class Comparison:
    """What the page shows of a question.

    Attributes:
        plain: the target's answer.
        drafted: the answer with the head.
        prompt_tokens: of the question, as the target reads it.
        difference: where they part, once both are finished; None where they do not.
        excuse: why the answers may part in any dtype, as a sentence; None where they may not.
    """

    plain: GrowingAnswer
    drafted: GrowingAnswer
    prompt_tokens: int
    difference: Difference | None = None
    excuse: str | None = None

    @classmethod
    def empty(cls, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int = 0) -> "Comparison":
        """A comparison before its first token."""
        return cls(GrowingAnswer(tokenizer), GrowingAnswer(tokenizer), prompt_tokens)

    @property
    def parting(self) -> int | None:
        """The first token, from 0, in which the answers differ; None where there is none."""
        if self.difference is None:
            return None
        return self.difference.position - self.prompt_tokens

    @property
    def speedup(self) -> float:
        """Tokens per second with the head over those without; nan before both have any."""
        return self.drafted.tokens_per_second / self.plain.tokens_per_second


def compare(models: DemoModels, question: Question) -> Generator[Comparison]:
    """Let the target answer alone and then with the head, from the same seed.

    Args:
        models: who answers.
        question: what is asked.

    Yields:
        The same comparison whenever it has grown, a few times a second.

    Raises:
        ValueError: the prompt does not fit, or the tree is not for this target.
    """
    inputs = models.inputs(question)
    shown = Comparison.empty(models.tokenizer, inputs["input_ids"].shape[1])
    outputs: list[Any] = []
    for answer, drafts in ((shown.plain, False), (shown.drafted, True)):
        yield shown
        with models.answer(inputs, question, drafts=drafts) as call:
            for steps in call.frames():
                for step in steps:
                    answer.add(step)
                yield shown
            outputs.append(call.output())
        answer.finish()
    plain, drafted = outputs
    shown.excuse = excuse_of(models, question)
    seed = question.seed if question.temperature else None
    shown.difference = first_difference(plain, drafted, seed)
    yield shown


def excuse_of(models: DemoModels, question: Question) -> str | None:
    """Why the answers to a question may part though nothing is wrong; None where they may not."""
    tree = question.tree_config()
    if not question.temperature:
        return None
    if tree is not None and tree.acceptance == "rejection":
        return (
            "Drafts that are accepted by rejection keep the distribution of the target's answers, "
            "and not its tokens under a seed."
        )
    if execution_device(models.target).type != "cpu":
        return "Whether that is a tie cannot be told: the random numbers of a GPU are not replayed."
    return None
