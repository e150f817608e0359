"""The losses of training-time test (EAGLE-3, section 3.2).

By which formula each learnt token is learnt, in which passes. teacher.py says which tokens those
are, and from what distribution.

B batch, S sequence, K passes, H hidden, U draft vocabulary, V target vocabulary, n learnt tokens.

Slot p holds the target's features of token p and the embedding of token p + 1. Token j is learnt
from the target's distribution at j - 1. Pass k predicts it at slot j - 2 - k. In a conversation of
nine tokens whose response is tokens 4 to 8, the slots are:

    token      0  1  2  3 | 4  5  6  7  8
    pass 0                | 2  3  4  5  6
    pass 1                | 1  2  3  4  5
    pass 2                | 0  1  2  3  4
    pass 3                | -  0  1  2  3      a dash: no slot lies so far back
    pass 4                | -  -  0  1  2

The mask moves exactly as the labels do. So the first response token is learnt, the last one too,
and no slot predicts past the end.

The formulas: p is the target's distribution over the draft vocabulary, q the head's.
alpha = sum_u min(p_u, q_u) is the chance that a token sampled from q is accepted.
"""

import torch
from torch.nn import functional as F

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.training.chunks import Loss, chunked_loss
from eagle_hf.training.teacher import Teacher


def soft_cross_entropy(draft_logits: torch.Tensor, target_probs: torch.Tensor) -> torch.Tensor:
    """-sum_u p_u log q_u per token; p is renormalised over the draft vocabulary (EAGLE-3).

    Args:
        draft_logits: the head's logits, [n, U].
        target_probs: p, [n, U].

    Returns:
        The losses, [n].
    """
    return F.cross_entropy(draft_logits, target_probs, reduction="none")


def lk_hybrid(draft_logits: torch.Tensor, target_probs: torch.Tensor) -> torch.Tensor:
    """lambda KL(p, q) + (1 - lambda) TV(p, q) per token, lambda = exp(-3 alpha) held constant.

    LK losses, arXiv 2602.23881: KL while the head is poor, total variation (1 - alpha) once it is
    not. p is not renormalised.

    Args:
        draft_logits: the head's logits, [n, U].
        target_probs: p, [n, U].

    Returns:
        The losses, [n].
    """
    log_q = draft_logits.log_softmax(-1)  # [n, U]
    alpha = torch.minimum(target_probs, log_q.exp()).sum(-1)  # [n]
    trust = (-3 * alpha.detach()).exp()  # lambda, [n]
    divergence = (torch.xlogy(target_probs, target_probs) - target_probs * log_q).sum(-1)  # [n]
    return trust * divergence + (1 - trust) * (1 - alpha)


def negative_log_alpha(draft_logits: torch.Tensor, target_probs: torch.Tensor) -> torch.Tensor:
    """-log alpha per token; p is not renormalised (LK losses, arXiv 2602.23881).

    Args:
        draft_logits: the head's logits, [n, U].
        target_probs: p, [n, U].

    Returns:
        The losses, [n].
    """
    alpha = torch.minimum(target_probs, draft_logits.softmax(-1)).sum(-1)  # [n]
    # Distributions without overlap have alpha 0, whose logarithm is infinite.
    return -alpha.clamp(min=torch.finfo(alpha.dtype).tiny).log()


LOSSES = {
    "ce": Loss(soft_cross_entropy, True),
    "lk_hybrid": Loss(lk_hybrid, False),
    "log_alpha": Loss(negative_log_alpha, False),
}


def ttt_loss(
    head: Eagle3DraftHead,
    outputs: list[torch.Tensor],
    teacher: Teacher,
    loss: str = "ce",
    decay: float = 0.8,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum the loss of training-time test over passes and learnt tokens (EAGLE-3, section 3.2).

    Logits exist for one chunk of tokens at a time, see chunks.py.

    Args:
        head: the draft head, for its LM head.
        outputs: the output of each of the K passes, [B, S, H].
        teacher: the learnt tokens of the same batch.
        loss: a name in `LOSSES`.
        decay: pass k weighs decay ** k.

    Returns:
        The summed loss, a scalar; hits [K]; trials [K]. hits[k] counts the argmax agreements of
        pass k with the target's whole vocabulary, among trials[k] labelled tokens.
    """
    hidden = []
    weights = []
    trials = []
    for ttt_step, output in enumerate(outputs):
        has_slot = teacher.room >= ttt_step  # [n]
        # A token without a slot in this pass reads the one of pass 0, with a weight of 0.
        slots = torch.where(has_slot, teacher.slots - ttt_step, teacher.slots)  # [n]
        states = output.flatten(0, 1).index_select(0, slots)  # [n, H]
        hidden.append(head.lm_head_input(states))
        weights.append(has_slot * decay**ttt_step)
        trials.append((teacher.trials_room >= ttt_step).sum())
    total, hits = chunked_loss(head, hidden, torch.stack(weights), teacher, LOSSES[loss])
    return total, hits, torch.stack(trials)
