"""The losses of training-time test (EAGLE-3, section 3.2): what is learnt, from whom, by which formula.

B batch, S sequence, K passes, H hidden, U draft vocabulary, V target vocabulary, n learnt tokens. Token j is learnt
from the target's distribution at j - 1. Pass k predicts it at slot j - 2 - k: the mask moves exactly as the labels do,
so the first response token is learnt, the last one too, and no slot predicts past the end.

p is the target's distribution, q the head's, over the draft vocabulary; alpha = sum_u min(p_u, q_u) is the chance that
a token sampled from q is accepted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from eagle_hf.training.chunks import chunked_loss, precise


def soft_cross_entropy(draft_logits: torch.Tensor, target_probs: torch.Tensor) -> torch.Tensor:
    """-sum_u p_u log q_u per row [n]; p renormalised over the draft vocabulary (EAGLE-3)."""
    return F.cross_entropy(draft_logits, target_probs, reduction="none")


def lk_hybrid(draft_logits: torch.Tensor, target_probs: torch.Tensor) -> torch.Tensor:
    """lambda KL(p, q) + (1 - lambda) TV(p, q) per row [n], lambda = exp(-3 alpha) held constant; p not renormalised.

    LK losses, arXiv 2602.23881: KL while the head is poor, total variation, 1 - alpha, once it is not.
    """
    log_q = draft_logits.log_softmax(-1)
    alpha = torch.minimum(target_probs, log_q.exp()).sum(-1)
    trust = (-3 * alpha.detach()).exp()
    divergence = (torch.xlogy(target_probs, target_probs) - target_probs * log_q).sum(-1)
    return trust * divergence + (1 - trust) * (1 - alpha)


def negative_log_alpha(draft_logits: torch.Tensor, target_probs: torch.Tensor) -> torch.Tensor:
    """-log alpha per row [n]; p not renormalised (LK losses, arXiv 2602.23881)."""
    alpha = torch.minimum(target_probs, draft_logits.softmax(-1)).sum(-1)
    return -alpha.clamp(min=torch.finfo(alpha.dtype).tiny).log()


@dataclass(frozen=True)
class Loss:
    """A formula (draft logits, target probabilities) -> loss per row, and whether p is renormalised for it."""

    formula: Callable
    renormalised: bool


LOSSES = {
    "ce": Loss(soft_cross_entropy, True),
    "lk_hybrid": Loss(lk_hybrid, False),
    "log_alpha": Loss(negative_log_alpha, False),
}


@dataclass
class Teacher:
    """What the target says about the n learnt tokens of a batch whose argmax the head can draft at all.

    slots [n]: where pass 0 predicts them, counted over the flattened batch [B * S]; room [n]: how many slots of the
    conversation lie before that one, so how many later passes predict the token too. ask(i, j): the target's logits
    [j - i, U] for tokens i to j - 1; best [n]: their target argmax; normaliser [n]: log-sum-exp over all V.
    trials_room: room of every learnt token, those outside the draft vocabulary too.
    """

    slots: torch.Tensor
    room: torch.Tensor
    ask: Callable[[int, int], torch.Tensor]
    best: torch.Tensor
    normaliser: torch.Tensor | None
    trials_room: torch.Tensor

    def probs(self, start: int, end: int, renormalised: bool) -> torch.Tensor:
        """The target's probabilities [end - start, U], float32 or better."""
        logits = precise(self.ask(start, end))
        return (
            logits.softmax(-1)
            if renormalised
            else (logits - self.normaliser[start:end, None]).exp()
        )


@torch.no_grad()
def ask_teacher(batch: dict, rows: Callable, draft_to_target: torch.Tensor) -> Teacher:
    """The target's opinion on every labelled token of a batch.

    batch: labels [B, S]; hidden_states [B, S, H] final-normed, best and, where the loss needs it, log_normaliser [B, S]:
    what the target makes of each token; position_ids [1, S] where conversations are packed. rows: `draft_rows(target, ...)`.
    """
    labels, states, normaliser = (
        batch["labels"],
        batch["hidden_states"].flatten(0, 1),
        batch.get("log_normaliser"),
    )
    place = batch.get(
        "position_ids", torch.arange(labels.shape[1], device=labels.device)
    ).expand_as(labels)
    known = (labels != -100) & (
        place >= 2
    )  # no slot predicts the first two tokens of a conversation
    best = batch["best"].roll(1, dims=1)  # best[j] is the argmax that token j is learnt from
    tokens = (known & torch.isin(best, draft_to_target)).flatten().nonzero()[:, 0]
    return Teacher(
        slots=tokens - 2,
        room=place.flatten()[tokens] - 2,
        ask=lambda start, end: rows(states[tokens[start:end] - 1]),
        best=best.flatten()[tokens],
        normaliser=None if normaliser is None else normaliser.flatten()[tokens - 1],
        trials_room=place[known] - 2,
    )


def ttt_loss(
    head, outputs: list[torch.Tensor], teacher: Teacher, loss: str = "ce", decay: float = 0.8
):
    """(summed loss, hits [K], trials [K]) over the passes' outputs [B, S, H]; pass k weighs decay ** k.

    hits[k] counts argmax agreements with the target over its whole vocabulary among trials[k] learnt tokens.
    Logits exist for one chunk of tokens at a time, see chunks.py.
    """
    hidden, weights = [], []
    for ttt_step, output in enumerate(outputs):
        possible = teacher.room >= ttt_step
        slots = torch.where(possible, teacher.slots - ttt_step, teacher.slots)
        hidden.append(head.lm_head_input(output.flatten(0, 1).index_select(0, slots)))
        weights.append(possible * decay**ttt_step)
    total, hits = chunked_loss(head, hidden, torch.stack(weights), teacher, LOSSES[loss])
    return (
        total,
        hits,
        torch.stack([(teacher.trials_room >= ttt_step).sum() for ttt_step in range(len(outputs))]),
    )
