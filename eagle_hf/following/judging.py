"""Which of two heads drafts better for the answers that were held out.

Both heads are replayed along the recorded answers (measuring/recorded.py): the service's own
traffic at its own temperature, and what tau would have been in it. Generating greedily instead
would cost a forward of the target for every round, and measure other answers.

Prompts are paired, and drawn with replacement for the interval (measuring/intervals.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eagle_hf.data.rows import Example
from eagle_hf.decoding.assistants import EagleAssistant
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation import open_head
from eagle_hf.following.answers import answer_spans
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring import tau_difference
from eagle_hf.measuring.acceptance import acceptance_along, save_acceptance
from eagle_hf.measuring.recorded import replay_answer, replayed_tree
from eagle_hf.target import aux_layer_ids, execution_device, next_token_summary, rope_limit
from eagle_hf.target import target_states as read_states

MOST_TOKENS = 256  # of each answer that are replayed
# Texts of another tokenizer agree in a few tokens of a hundred, sampled answers in half and more.
LEAST_AGREEMENT = 0.1
ACCEPTANCE_PROMPTS = 16  # of those held out, for the acceptance that is saved with a version
ACCEPTANCE_TOKENS = 48  # of each


class Judgement(NamedTuple):
    """Two heads on the same prompts.

    Attributes:
        tau_old, tau_new: over all rounds of each.
        low, high: 95 % interval of tau_new - tau_old.
    """

    tau_old: float
    tau_new: float
    low: float
    high: float

    @property
    def is_better(self) -> bool:
        """Whether the new head is better beyond chance; False where nothing was measured."""
        return self.low > 0


def measure_head(
    target: Any,
    folder: Path,
    examples: Sequence[Example],
    tree: TreeConfig | None,
    vocab_size: int | None = None,
) -> list[DecodingStats]:
    """Replay a saved head along the answers of some conversations.

    Args:
        target: that gave the answers.
        folder: of the head.
        examples: tokenised, with a loss mask.
        tree: what is drafted; None for the head's own.
        vocab_size: as in `Eagle3DraftHead.from_pretrained`.

    Returns:
        Rounds and tokens of each conversation.
    """
    head = open_head(folder, target, tree="saved", vocab_size=vocab_size)
    assistant = EagleAssistant(head, replayed_tree(tree or head.tree))
    limit = rope_limit(target)
    measured = []
    for example in examples:
        stats = DecodingStats(rows=0)
        ids = torch.tensor(example["input_ids"])
        for begin, end in answer_spans(example):
            end = min(end, begin + MOST_TOKENS, limit)
            if end > begin:
                answer = ids[begin:end]
                stats += replay_answer(target, assistant, ids[None, :begin], answer, assistant.tree)
        measured.append(stats)
    return measured


def judge(old: Sequence[DecodingStats], new: Sequence[DecodingStats]) -> Judgement:
    """Compare two heads.

    Args:
        old, new: conversation i of both is the same.

    Returns:
        Both taus and the interval of their difference.
    """
    low, high = tau_difference(new, old)
    tau_old = sum(old, DecodingStats(rows=0)).tau
    tau_new = sum(new, DecodingStats(rows=0)).tau
    return Judgement(tau_old, tau_new, low, high)


@torch.no_grad()
def measure_agreement(target: Any, head_config: Any, examples: Sequence[Example]) -> float:
    """Measure how often a recorded token is the one that the target finds likeliest.

    Args:
        target: a causal LM.
        head_config: of a head for it.
        examples: tokenised, with a loss mask.

    Returns:
        A share of the learnt tokens: 1 for greedy answers, less for sampled ones.
    """
    device = execution_device(target)
    layers = aux_layer_ids(target, head_config)
    agreeing = 0
    count = 0
    for example in examples:
        ids = torch.tensor(example["input_ids"], device=device)
        is_learnt = torch.tensor(example["loss_mask"], device=device).bool()[1:]
        _, states = read_states(target, ids[None], layers)  # [1, S, H]
        best, _ = next_token_summary(target, states[0, :-1][is_learnt], False)
        agreeing += int((best.to(device) == ids[1:][is_learnt]).sum())
        count += int(is_learnt.sum())
    return agreeing / max(count, 1)


def check_agreement(agreement: float, count: int) -> None:
    """Refuse answers that the target cannot have given.

    Args:
        agreement: of `measure_agreement`.
        count: conversations that it was measured on.

    Raises:
        ValueError: it is what another tokenizer's ids have.
    """
    if agreement < LEAST_AGREEMENT:
        raise ValueError(
            f"the target would have chosen {agreement:.1%} of the tokens in the newest {count} "
            "answers of the log; they are another model's, or another tokenizer's: follow the "
            "target that wrote them, into another folder"
        )


def note_acceptance(
    target: Any, folder: Path, examples: Sequence[Example], vocab_size: int | None = None
) -> None:
    """Save with a head how often its guesses are taken along recorded answers.

    Trees are chosen by it on each machine, so the one of the former version must not stay.

    Args:
        target: that gave the answers.
        folder: of the head.
        examples: that the head was not trained on.
        vocab_size: as in `Eagle3DraftHead.from_pretrained`.
    """
    head = open_head(folder, target, tree="saved", vocab_size=vocab_size)
    starts = []
    answers = []
    for example in examples[:ACCEPTANCE_PROMPTS]:
        ids = torch.tensor(example["input_ids"])
        begin, end = answer_spans(example)[0]
        end = min(end, begin + ACCEPTANCE_TOKENS, rope_limit(target))
        if end > begin:
            starts.append(ids[None, :begin])
            answers.append(ids[begin:end])
    save_acceptance(folder, acceptance_along(target, head, starts, answers))
