"""Logits processors and stopping criteria as users write them: for the whole batch, with a state.

R rows, L tokens of a row, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor, StoppingCriteria

Made = dict[str, Callable[[int, int], Any]]  # name -> what makes one, for R and V


class Recorder(LogitsProcessor):
    """Changes nothing, and keeps all that it was called with."""

    def __init__(self):
        self.ids: list[torch.Tensor] = []
        self.scores: list[torch.Tensor] = []

    def __call__(self, input_ids, scores):
        self.ids.append(input_ids.clone())
        self.scores.append(scores.clone())
        return scores


class BansPerRow(LogitsProcessor):
    """Row i may not emit the tokens of a list of its own."""

    def __init__(self, rows, vocabulary):
        self.banned = [[(5 * row + step) % vocabulary for step in range(8)] for row in range(rows)]

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        for row, banned in enumerate(self.banned):
            scores[row, banned] = -torch.inf
        return scores


class BiasPerRow(LogitsProcessor):
    """Adds a tensor [R, V], in place."""

    def __init__(self, rows, vocabulary):
        generator = torch.Generator().manual_seed(5)
        self.bias = 3 * torch.randn(rows, vocabulary, generator=generator)

    def __call__(self, input_ids, scores):
        scores += self.bias
        return scores


class CallCounter(LogitsProcessor):
    """Every third call prefers the upper half of the vocabulary."""

    def __init__(self, rows, vocabulary):
        self.calls = 0
        self.half = vocabulary // 2

    def __call__(self, input_ids, scores):
        self.calls += 1
        scores = scores.clone()
        scores[:, self.half :] += 2.0 * (self.calls % 3 == 0)
        return scores


class UnlikeTheOthers(LogitsProcessor):
    """What the other rows find likely is made less likely: a rule across rows."""

    def __init__(self, rows, vocabulary):
        self.rows = rows

    def __call__(self, input_ids, scores):
        assert len(scores) == self.rows
        return 1.5 * scores - 0.5 * scores.mean(0, keepdim=True)


class Automaton(LogitsProcessor):
    """A state per row, which every token moves on; it demands each token once, and in order."""

    def __init__(self, rows, vocabulary):
        self.states = [1] * rows
        self.length = None

    def __call__(self, input_ids, scores):
        if self.length is not None:
            assert input_ids.shape[1] == self.length + 1
            newest = input_ids.view(-1)[self.length :: self.length + 1].tolist()
            self.states = [
                (7 * state + token) % 11 for state, token in zip(self.states, newest, strict=True)
            ]
        self.length = input_ids.shape[1]
        scores = scores.clone()
        for row, state in enumerate(self.states):
            scores[row, state::11] -= 4.0
        return scores


def plain_function(input_ids, scores):
    """A processor need not be an object."""
    bias = torch.zeros_like(scores)
    bias.scatter_(1, input_ids[:, -1:], -3.0)
    return scores + bias.flip(0)  # row 0 by what the last row emitted


class EndsPerRow(StoppingCriteria):
    """Row i ends at its own token: a comparison with a tensor [R]."""

    def __init__(self, rows, vocabulary):
        self.ends = torch.tensor([28, 24, 21, 19])[:rows] % vocabulary

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids[:, -1] == self.ends) | (input_ids[:, -2] == self.ends)


class LoopsOverRows(StoppingCriteria):
    """A budget of tokens for every row."""

    def __init__(self, rows, vocabulary):
        self.left = [4 + 3 * row for row in range(rows)]

    def __call__(self, input_ids, scores, **kwargs):
        ends = []
        for row in range(len(input_ids)):
            self.left[row] -= 1
            ends.append(self.left[row] <= 0)
        return torch.tensor(ends)


class TracksRows(StoppingCriteria):
    """One bool for all, once every row has had one of its tokens: as lm-eval's own does it."""

    def __init__(self, rows, vocabulary):
        self.done = [False] * rows

    def __call__(self, input_ids, scores, **kwargs):
        for row, has_ended in enumerate(self.done):
            if not has_ended:
                self.done[row] = int(input_ids[row, -1]) % 4 == 1
        return False not in self.done


class CountsCalls(StoppingCriteria):
    def __init__(self, rows, vocabulary):
        self.calls = 0

    def __call__(self, input_ids, scores, **kwargs):
        self.calls += 1
        return self.calls >= 13


class AnyRowEndsAll(StoppingCriteria):
    def __init__(self, rows, vocabulary):
        self.step = vocabulary // 4

    def __call__(self, input_ids, scores, **kwargs):
        return bool((input_ids[:, -1] % self.step == 4).any())


class EndsWhenSure(StoppingCriteria):
    """Ends a row by its scores, where there are some."""

    def __init__(self, rows, vocabulary):
        self.rows = rows

    def __call__(self, input_ids, scores, **kwargs):
        if scores is None:
            return torch.zeros(len(input_ids), dtype=torch.bool)
        assert scores[-1].shape[0] == self.rows
        return scores[-1].softmax(-1).amax(-1) > 0.5


def make_plain_function(rows: int, vocabulary: int) -> Callable:
    return plain_function


PROCESSORS: Made = {
    "bans": BansPerRow,
    "bias": BiasPerRow,
    "counter": CallCounter,
    "across": UnlikeTheOthers,
    "automaton": Automaton,
    "function": make_plain_function,
}
CRITERIA: Made = {
    "tensor": EndsPerRow,
    "loop": LoopsOverRows,
    "tracker": TracksRows,
    "calls": CountsCalls,
    "any": AnyRowEndsAll,
    "scores": EndsWhenSure,
}


def penalty_with_lengths(penalty: float, lengths: torch.Tensor) -> RepetitionPenaltyLogitsProcessor:
    """A repetition penalty that ignores another number of prompt tokens in every row."""
    try:
        return RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=lengths)
    except ValueError as error:
        pytest.skip(f"this transformers knows one length for all rows: {error}")
