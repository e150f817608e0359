"""Several ways of decoding on the same prompts, in turn.

A group of prompts is answered by every method before the next group is, in another order each time,
so that a slow moment of the machine affects all of them.

B rows of a group, S length of a prompt, T tokens of an answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.prompts.suites import first_turn_ids
from eagle_hf.data.rows import Prompt
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.equality import first_difference
from eagle_hf.evaluation.offline import sampling_at
from eagle_hf.evaluation.side_by_side.kept import GroupAnswer, KeptAnswers, Setting
from eagle_hf.evaluation.side_by_side.methods import PLAIN, OpenMethod, first_line
from eagle_hf.measuring.timing import timed
from eagle_hf.target import execution_device

WARM_UP_TOKENS = 4


@dataclass
class Contest:
    """Methods that answer the same prompts.

    Attributes:
        target, tokenizer: who answers.
        methods: opened, plain decoding first.
        max_new_tokens: of an answer.
        seed: set before every call, so that sampled answers can be compared.
        failures: why a method was given up, by its name.
    """

    target: Any
    tokenizer: PreTrainedTokenizerBase
    methods: list[OpenMethod]
    max_new_tokens: int = 64
    seed: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def run(
        self, prompts: Sequence[Prompt], settings: Iterable[Setting], kept: KeptAnswers
    ) -> None:
        """Answer every prompt in every setting by every method.

        Args:
            prompts: rows with `id`, `turns` and `category`.
            settings: how.
            kept: where the answers go, and where those of an earlier run are.
        """
        for setting in settings:
            groups = grouped(prompts, setting.batch)
            self._warm_up(groups[0], setting)
            bar = tqdm(groups, desc=f"temperature {setting.temperature:g}, batch {setting.batch}")
            for number, group in enumerate(bar):
                if not kept.holds(setting, group):
                    kept.add(self._answer(group, setting, number))

    def _answer(self, group: Sequence[Prompt], setting: Setting, turn: int) -> list[GroupAnswer]:
        """A group's answers by all methods, which begin with another one each turn."""
        inputs = padded_inputs(self.target, self.tokenizer, group)
        outputs = self._generate_all(inputs, setting, self.max_new_tokens, turn)
        plain = outputs[PLAIN][0]
        answers = []
        for name, (output, seconds, stats) in outputs.items():
            same, ties = _equal_rows(plain, output, setting, self.seed, self.target)
            length = inputs["input_ids"].shape[1]
            new = output.sequences[:, length:]
            answers.append(
                GroupAnswer(
                    method=name,
                    setting=setting,
                    category=group[0]["category"],
                    prompts=[prompt["id"] for prompt in group],
                    seconds=seconds,
                    tokens=_count(new, self.tokenizer.pad_token_id),
                    stats=stats,
                    same=same,
                    ties=ties,
                )
            )
        return answers

    def _generate_all(
        self, inputs: dict[str, torch.Tensor], setting: Setting, new_tokens: int, turn: int = 0
    ) -> dict[str, tuple[Any, float, DecodingStats]]:
        """What `_generate` returns, by method; one that fails is given up, and the others go on."""
        running = [method for method in self.methods if method.name not in self.failures]
        first = turn % len(running)
        outputs = {}
        for method in running[first:] + running[:first]:
            try:
                outputs[method.name] = self._generate(method, inputs, setting, new_tokens)
            except Exception as error:  # whatever a method raises
                if method.name == PLAIN:
                    raise
                self.failures[method.name] = first_line(error)
        return outputs

    def _generate(
        self,
        method: OpenMethod,
        inputs: dict[str, torch.Tensor],
        setting: Setting,
        new_tokens: int,
    ) -> tuple[Any, float, DecodingStats]:
        """(output, seconds, rounds) of one call."""
        settings = {
            "max_new_tokens": new_tokens,
            "do_sample": False,
            "pad_token_id": self.tokenizer.pad_token_id,
            "return_dict_in_generate": True,
            # the scores judge a difference; keeping them costs the plain run nothing
            "output_scores": method.name == PLAIN,
        }
        settings |= sampling_at(setting.temperature)
        results = []

        def call() -> None:
            results.append(method.generate(self.target, **inputs, **settings))

        torch.manual_seed(self.seed)
        seconds = timed(call, execution_device(self.target))
        output, stats = results[0]
        return output, seconds, stats

    def _warm_up(self, group: Sequence[Prompt], setting: Setting) -> None:
        """One short call of each method: the first calls pay for allocations."""
        inputs = padded_inputs(self.target, self.tokenizer, group)
        self._generate_all(inputs, setting, WARM_UP_TOKENS)


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


def padded_inputs(
    target: Any, tokenizer: PreTrainedTokenizerBase, group: Sequence[Prompt]
) -> dict[str, torch.Tensor]:
    """First turns [B, S] as `generate` takes them, padded on the left, on the target's device."""
    rows = [first_turn_ids(tokenizer, prompt)["input_ids"][0] for prompt in group]
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = row
        mask[number, width - len(row) :] = 1
    device = execution_device(target)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _count(new: torch.Tensor, pad: int) -> int:
    """Tokens of answers [B, T], without the padding behind those that ended."""
    count = 0
    for row in new.tolist():
        while len(row) > 1 and row[-1] == pad and row[-2] == pad:
            row.pop()
        count += len(row)
    return count


def _equal_rows(
    plain: Any, output: Any, setting: Setting, seed: int, target: Any
) -> tuple[int, int]:
    """How many rows equal plain decoding's, and how many differ by a tie."""
    # a GPU draws its noise in another way, so a sampled run can be replayed on a CPU only
    can_replay = setting.temperature > 0 and execution_device(target).type == "cpu"
    same = 0
    ties = 0
    for row in range(len(plain.sequences)):
        scores = tuple(step[row : row + 1] for step in plain.scores)
        alone = SimpleNamespace(sequences=plain.sequences[row : row + 1], scores=scores)
        replay = seed if can_replay and len(plain.sequences) == 1 else None
        difference = first_difference(alone, output.sequences[row : row + 1], replay)
        same += difference is None
        ties += difference is not None and difference.is_tie
    return same, ties
