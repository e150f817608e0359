"""What eagle_hf itself drafts and accepts on the texts that an engine wrote.

T tokens of an answer, K drafts of a chain, U draft vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.evaluation.equality import Difference, first_difference
from eagle_hf.measuring.traces import record

DEPTH = 3  # drafts a round, in every chain here


@dataclass
class Case:
    """A target and a head in float32, the folders they lie in, and what they are asked (token ids)."""

    target: Any
    target_folder: Path
    head: Eagle3DraftHead
    head_folder: Path
    prompts: list[list[int]]
    new_tokens: int

    def options(self, prompt: list[int]) -> dict:
        """Of `generate`: a prompt [1, S], answered greedily."""
        ids = torch.tensor([prompt])
        return dict(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.new_tokens,
            do_sample=False,
        )

    def differences(self, answers: list[list[int]]) -> list[Difference]:
        """Where answers to the first prompts part from what the target alone writes, ties aside; those are printed."""
        found = []
        for prompt, answer in zip(self.prompts, answers):
            plain = self.target.generate(
                **self.options(prompt), return_dict_in_generate=True, output_scores=True
            )
            found.append(first_difference(plain, torch.tensor([prompt + answer])))
        print(f"{len(answers)} answers, ties: {[tie for tie in found if tie and tie.is_tie]}")
        return [difference for difference in found if difference and not difference.is_tie]

    def rounds(self, tree: TreeConfig, lengths: list[int] | None = None) -> list[tuple[int, int]]:
        """(rounds, accepted drafts) in which `generate` answers the first prompts; lengths: of the answers, `new_tokens` unless given."""
        found, before, self.head.tree = [], self.head.tree, tree
        for prompt, length in zip(self.prompts, lengths or [self.new_tokens] * len(self.prompts)):
            self.target.generate(
                **self.options(prompt) | {"max_new_tokens": length}, assistant_model=self.head
            )
            found.append((self.head.last_run.rounds, sum(self.head.last_run.accepted)))
        self.head.tree = before
        print(f"{tree}: rounds and accepted drafts by prompt {found}")
        return found

    @property
    def stop(self) -> list[int]:
        return [self.target.config.eos_token_id]


def chains(
    target, head, prompt: list[int], answer: list[int], depth: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(drafts [T, K], logits [T, K, U]) of the chain below every token of the answer."""
    logits = []
    hook = head.lm_head.register_forward_hook(
        lambda module, args, output: logits.append(output.flatten(0, -2))
    )
    try:
        trace = record(
            target,
            head,
            [torch.tensor([prompt])],
            [torch.tensor(answer)],
            depth=depth,
            width=1,
            children=1,
        )
    finally:
        hook.remove()
    return torch.from_numpy(trace.tokens)[..., 0], torch.cat(logits).unflatten(
        0, (len(answer), depth)
    )


def accepted_along(drafts: torch.Tensor, answer: list[int]) -> list[int]:
    """How many drafts were accepted at each of the K positions in the rounds that wrote this answer; drafts [T, K] below its tokens.

    As in `generate`, no round drafts beyond the answer's end.
    """
    counts, place = [0] * drafts.shape[1], 0
    while place < len(answer) - 1:
        room, kept = min(len(counts), len(answer) - place - 2), 0
        while kept < room and drafts[place, kept] == answer[place + 1 + kept]:
            counts[kept] += 1
            kept += 1
        place += kept + 1
    return counts
