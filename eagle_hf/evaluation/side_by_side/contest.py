"""Several ways of decoding on the same prompts, in turn.

A group of prompts is answered by every method before the next group is, in another order each time,
so that a slow moment of the machine affects all of them.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.rows import Prompt
from eagle_hf.evaluation.side_by_side.calls import (
    GroupCall,
    Outcome,
    equal_rows,
    mean_entropy,
    padded_inputs,
)
from eagle_hf.evaluation.side_by_side.kept import GroupAnswer, KeptAnswers, Setting
from eagle_hf.evaluation.side_by_side.methods import OpenMethod, first_line
from eagle_hf.evaluation.side_by_side.names import PLAIN
from eagle_hf.evaluation.side_by_side.served import ServedMethod

WARM_UP_TOKENS = 4


@dataclass
class Contest:
    """Methods that answer the same prompts.

    Attributes:
        target, tokenizer: who answers.
        methods: opened, plain decoding first.
        max_new_tokens: of an answer.
        seed: set before every call, so that sampled answers can be compared.
    """

    target: Any
    tokenizer: PreTrainedTokenizerBase
    methods: Sequence[OpenMethod | ServedMethod]
    max_new_tokens: int = 64
    seed: int = 0

    def run(
        self, prompts: Sequence[Prompt], settings: Iterable[Setting], kept: KeptAnswers
    ) -> None:
        """Answer every prompt in every setting by every method.

        A group that lacks a method's answer is answered by all of them again: only answers of one
        moment can be compared.

        Args:
            prompts: rows with `id`, `turns` and `category`.
            settings: how.
            kept: where the answers go, and where those of an earlier run are.
        """
        for setting in settings:
            groups = grouped(prompts, setting.batch)
            is_warm = False
            bar = tqdm(groups, desc=f"temperature {setting.temperature:g}, batch {setting.batch}")
            for number, group in enumerate(bar):
                names = [method.name for method in self._running(setting, kept)]
                if kept.holds(setting, group, names):
                    continue
                if not is_warm:
                    self._outcomes(self._call(group, setting, WARM_UP_TOKENS), kept)
                    is_warm = True
                self._answer(group, setting, number, kept)

    def _running(self, setting: Setting, kept: KeptAnswers) -> list[OpenMethod | ServedMethod]:
        """The methods that were not given up in a setting."""
        return [method for method in self.methods if (method.name, setting) not in kept.failures]

    def _call(self, group: Sequence[Prompt], setting: Setting, new_tokens: int) -> GroupCall:
        """A group as the methods are asked."""
        inputs = padded_inputs(self.target, self.tokenizer, group)
        return GroupCall(self.target, self.tokenizer, group, inputs, setting, new_tokens, self.seed)

    def _answer(
        self, group: Sequence[Prompt], setting: Setting, turn: int, kept: KeptAnswers
    ) -> None:
        """Keep a group's answers by all methods, which begin with another one each turn."""
        started = time.perf_counter()
        call = self._call(group, setting, self.max_new_tokens)
        outcomes = self._outcomes(call, kept, turn)
        plain = outcomes[PLAIN]
        answers = []
        for name, outcome in outcomes.items():
            same, ties = equal_rows(call, plain, outcome)
            answers.append(
                GroupAnswer(
                    method=name,
                    setting=setting,
                    category=group[0]["category"],
                    prompts=[prompt["id"] for prompt in group],
                    seconds=outcome.seconds,
                    tokens=outcome.tokens,
                    stats=outcome.stats,
                    same=same,
                    ties=ties,
                    prompt_tokens=call.prompt_tokens,
                    errors=outcome.errors,
                    entropy=mean_entropy(call, plain) if name == PLAIN else None,
                )
            )
        decoding = sum(outcome.seconds for outcome in outcomes.values())
        for answer in answers:
            if answer.method == PLAIN:
                answer.between = time.perf_counter() - started - decoding
        kept.add(answers)

    def _outcomes(self, call: GroupCall, kept: KeptAnswers, turn: int = 0) -> dict[str, Outcome]:
        """What the methods make of a group; one that fails is given up in this setting."""
        running = self._running(call.setting, kept)
        first = turn % len(running)
        outcomes = {}
        for method in running[first:] + running[:first]:
            try:
                outcomes[method.name] = method.answer(call)
            except Exception as error:  # whatever a method raises
                if method.name == PLAIN:
                    raise
                kept.fail(method.name, call.setting, first_line(error))
        return outcomes


def grouped(prompts: Sequence[Prompt], batch: int) -> list[list[Prompt]]:
    """Prompts of one category in groups of `batch`; the last of a category may be smaller."""
    categories: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        categories.setdefault(prompt["category"], []).append(prompt)
    groups = []
    for members in categories.values():
        for start in range(0, len(members), batch):
            groups.append(members[start : start + batch])
    return groups
