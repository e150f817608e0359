"""Which tokens of a batch are learnt, and what the target says about them.

B batch, S sequence, H hidden, U draft vocabulary, V target vocabulary, n learnt tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class Teacher:
    """What the target says about the n learnt tokens of a batch.

    Learnt are the labelled tokens whose target argmax lies in the draft vocabulary.

    Args:
        slots: where pass 0 predicts each token, counted over the flattened batch [B * S]; [n].
        room: how many slots of the conversation lie before that one, so how many later passes
            predict the token too; [n].
        best: the target's argmax over V, [n].
        log_normaliser: log-sum-exp of the target's logits over V, [n]; None where no loss needs it.
        states: final-normed hidden states of the flattened batch, [B * S, H].
        lm_head_rows: the target's LM head for the draft vocabulary alone,
            states [..., H] -> logits [..., U].
        trials_room: `room` of every labelled token, those outside the draft vocabulary too.
    """

    slots: torch.Tensor
    room: torch.Tensor
    best: torch.Tensor
    log_normaliser: torch.Tensor | None
    states: torch.Tensor
    lm_head_rows: Callable[[torch.Tensor], torch.Tensor]
    trials_room: torch.Tensor

    def logits(self, start: int, end: int) -> torch.Tensor:
        """The target's logits [end - start, U] for the learnt tokens `start` to `end` - 1."""
        # Slot p predicts token p + 2, which the target predicts at p + 1.
        positions = self.slots[start:end] + 1
        return self.lm_head_rows(self.states[positions])

    def probs(self, start: int, end: int, renormalised: bool) -> torch.Tensor:
        """The target's probabilities [end - start, U], float32 or better."""
        logits = precise(self.logits(start, end))
        if renormalised:
            return logits.softmax(-1)
        assert self.log_normaliser is not None, "the batch came without log_normaliser"
        return (logits - self.log_normaliser[start:end, None]).exp()


@torch.no_grad()
def ask_teacher(
    batch: dict[str, torch.Tensor],
    lm_head_rows: Callable[[torch.Tensor], torch.Tensor],
    draft_to_target: torch.Tensor,
) -> Teacher:
    """Find the learnt tokens of a batch, and what the target says about them.

    Args:
        batch: `labels` [B, S]; the target features `hidden_states` [B, S, H], `best` [B, S] and,
            where the loss needs it, `log_normaliser` [B, S]; `position_ids` [1, S] where
            conversations are packed.
        lm_head_rows: the target's LM head for the draft vocabulary alone.
        draft_to_target: target ids of the draft vocabulary, [U].

    Returns:
        The teacher of the batch. It computes logits when it is asked for them.
    """
    # 1) Where each token lies in its own conversation.
    labels = batch["labels"]
    positions = batch.get("position_ids")
    if positions is None:
        positions = torch.arange(labels.shape[1], device=labels.device)
    positions = positions.expand_as(labels)  # [B, S]

    # 2) The labelled tokens. No slot predicts the first two tokens of a conversation.
    is_labelled = (labels != -100) & (positions >= 2)  # [B, S]

    # 3) Of these, the ones that the head can draft: best[j] is what token j is learnt from.
    best = batch["best"].roll(1, dims=1)  # [B, S]
    is_learnt = is_labelled & torch.isin(best, draft_to_target)
    tokens = is_learnt.flatten().nonzero()[:, 0]  # [n]

    log_normaliser = batch.get("log_normaliser")
    if log_normaliser is not None:
        log_normaliser = log_normaliser.flatten()[tokens - 1]
    return Teacher(
        slots=tokens - 2,
        room=positions.flatten()[tokens] - 2,
        best=best.flatten()[tokens],
        log_normaliser=log_normaliser,
        states=batch["hidden_states"].flatten(0, 1),
        lm_head_rows=lm_head_rows,
        trials_room=positions[is_labelled] - 2,
    )


def precise(logits: torch.Tensor) -> torch.Tensor:
    """Logits in float32; float64 stays as it is."""
    if logits.dtype == torch.float64:
        return logits
    return logits.float()
