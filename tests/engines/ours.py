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
    """A target and a head in float32, their folders, and what they are asked.

    Attributes:
        target: The model.
        target_folder: Where it lies, as an engine opens it.
        head: The draft head.
        head_folder: Where it lies.
        prompts: Token ids of each prompt.
        new_tokens: The length of each answer, unless it ends before.
    """

    target: Any
    target_folder: Path
    head: Eagle3DraftHead
    head_folder: Path
    prompts: list[list[int]]
    new_tokens: int

    @property
    def stop(self) -> list[int]:
        """The tokens that end an answer."""
        return [self.target.config.eos_token_id]

    def options(self, prompt: list[int], new_tokens: int | None = None) -> dict[str, Any]:
        """The arguments of `generate` that answer a prompt greedily."""
        ids = torch.tensor([prompt])  # [1, S]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": self.new_tokens if new_tokens is None else new_tokens,
            "do_sample": False,
        }

    def differences(self, answers: list[list[int]]) -> list[Difference]:
        """Where answers to the first prompts differ from the target alone.

        Ties are printed and left out.
        """
        ties = []
        errors = []
        for prompt, answer in zip(self.prompts, answers, strict=False):
            plain = self.target.generate(
                **self.options(prompt), return_dict_in_generate=True, output_scores=True
            )
            difference = first_difference(plain, torch.tensor([prompt + answer]))
            if difference is None:
                continue
            if difference.is_tie:
                ties.append(difference)
            else:
                errors.append(difference)
        print(f"{len(answers)} answers, ties: {ties}")
        return errors

    def rounds(self, tree: TreeConfig, lengths: list[int] | None = None) -> list[tuple[int, int]]:
        """(rounds, accepted drafts) in which `generate` answers the first prompts.

        Args:
            tree: What the head drafts in a round.
            lengths: Tokens of each answer. As many prompts are answered. By default all are, with
                `new_tokens` each.
        """
        if lengths is None:
            lengths = [self.new_tokens] * len(self.prompts)
        found = []
        before = self.head.tree
        self.head.tree = tree
        for prompt, length in zip(self.prompts, lengths, strict=False):
            self.target.generate(**self.options(prompt, length), assistant_model=self.head)
            run = self.head.last_run
            found.append((run.rounds, sum(run.accepted)))
        self.head.tree = before
        print(f"{tree}: rounds and accepted drafts by prompt {found}")
        return found


def chains(
    target: Any, head: Eagle3DraftHead, prompt: list[int], answer: list[int], depth: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(drafts [T, K], logits [T, K, U]) of the chain below every token of the answer."""
    logits = []

    def keep_logits(_module: torch.nn.Module, _args: tuple, output: torch.Tensor) -> None:
        logits.append(output.flatten(0, -2))  # [rows, U]

    hook = head.lm_head.register_forward_hook(keep_logits)
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
    drafts = torch.from_numpy(trace.tokens)[..., 0]  # [T, K]
    return drafts, torch.cat(logits).unflatten(0, (len(answer), depth))


def accepted_along(drafts: torch.Tensor, answer: list[int]) -> list[int]:
    """How many drafts were accepted at each position of a chain, over the rounds of an answer.

    As in `generate`, no round drafts beyond the answer's end.

    Args:
        drafts: The chain below every token of the answer, [T, K].
        answer: Its tokens.

    Returns:
        A count for each of the K positions.
    """
    counts = [0] * drafts.shape[1]
    root = 0  # the newest token of the answer when a round begins
    while root < len(answer) - 1:
        room = min(len(counts), len(answer) - root - 2)
        accepted = 0
        while accepted < room and drafts[root, accepted] == answer[root + 1 + accepted]:
            counts[accepted] += 1
            accepted += 1
        root += accepted + 1  # the bonus token is the next root
    return counts
