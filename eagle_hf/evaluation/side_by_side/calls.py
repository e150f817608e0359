"""What every method is asked, and what it answers.

B rows of a group, S length of a prompt, T tokens of an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eagle_hf.data.prompts.suites import first_turn_ids
from eagle_hf.data.rows import Prompt
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.equality import first_difference
from eagle_hf.evaluation.side_by_side.kept import Setting
from eagle_hf.target import execution_device

CUT = "\ufffd"  # what a decoded text ends with where a character was cut in two


@dataclass(frozen=True)
class GroupCall:
    """A group of prompts that is to be answered.

    Attributes:
        target, tokenizer: whose answers are wanted.
        prompts: the rows.
        inputs: the same as `generate` takes them, [B, S], padded on the left.
        setting: how.
        max_new_tokens: of an answer.
        seed: of sampled answers.
    """

    target: Any
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    inputs: dict[str, torch.Tensor]
    setting: Setting
    max_new_tokens: int
    seed: int = 0

    @property
    def prompt_tokens(self) -> int:
        """S."""
        return self.inputs["input_ids"].shape[1]


@dataclass
class Outcome:
    """What a method made of a group.

    Attributes:
        seconds: of the whole call.
        tokens: new ones of all rows.
        stats: rounds and acceptance.
        output: what `generate` returned; None of a server.
        texts: the answers of a server, None where a request failed; empty of a method in this
            process.
        errors: why requests to a server failed.
    """

    seconds: float
    tokens: int
    stats: DecodingStats
    output: Any = None
    texts: list[str | None] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


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


def answer_lengths(new: torch.Tensor, pad: int) -> list[int]:
    """Tokens of each answer [B, T], without the padding behind those that ended."""
    lengths = []
    for row in new.tolist():
        while len(row) > 1 and row[-1] == pad and row[-2] == pad:
            row.pop()
        lengths.append(len(row))
    return lengths


def equal_rows(call: GroupCall, plain: Outcome, other: Outcome) -> tuple[int, int]:
    """How many answers equal plain decoding's, and how many differ by a tie.

    Answers of this process are compared by token. Those of a server are compared by text, and a
    difference is never called a tie.
    """
    if other.output is None:
        return _equal_texts(call, plain, other.texts), 0
    # a GPU draws its noise in another way, so a sampled run can be replayed on a CPU only
    can_replay = call.setting.temperature > 0 and execution_device(call.target).type == "cpu"
    sequences = plain.output.sequences
    same = 0
    ties = 0
    for row in range(len(sequences)):
        scores = tuple(step[row : row + 1] for step in plain.output.scores)
        alone = SimpleNamespace(sequences=sequences[row : row + 1], scores=scores)
        replay = call.seed if can_replay and len(sequences) == 1 else None
        difference = first_difference(alone, other.output.sequences[row : row + 1], replay)
        same += difference is None
        ties += difference is not None and difference.is_tie
    return same, ties


def _equal_texts(call: GroupCall, plain: Outcome, texts: Sequence[str | None]) -> int:
    """How many texts are those of plain decoding."""
    new = plain.output.sequences[:, call.prompt_tokens :]
    wanted = call.tokenizer.batch_decode(new, skip_special_tokens=True)
    same = 0
    for text, own in zip(texts, wanted, strict=True):
        same += text is not None and text.rstrip(CUT) == own.rstrip(CUT)
    return same


def mean_entropy(call: GroupCall, plain: Outcome) -> float:
    """Mean entropy of the target's next-token distribution over its answers, in nats a token.

    The distribution is the model's own, at temperature 1 and before any processor.
    """
    new = plain.output.sequences[:, call.prompt_tokens :]
    lengths = answer_lengths(new, call.tokenizer.pad_token_id)
    total = 0.0
    for row, length in enumerate(lengths):
        logits = torch.stack([step[row] for step in plain.output.logits[:length]])  # [T, V]
        total += float(torch.special.entr(logits.float().softmax(-1)).sum())
    return total / sum(lengths)
