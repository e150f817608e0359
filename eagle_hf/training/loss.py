"""The loss of training-time test (EAGLE-3, section 3.2): soft cross-entropy on the draft vocabulary, pass by pass.

B batch, S sequence, H hidden, U draft vocabulary, V target vocabulary, n learnt tokens. Token j is learnt from the
target's distribution at j - 1. Pass k predicts it at slot j - 2 - k: the mask moves exactly as the labels do, so the
first response token is learnt, the last one too, and no slot predicts past the end.
"""

from dataclasses import dataclass

import torch

from eagle_hf.target import target_logits

CHUNK = 512  # rows of [.., V] logits held at once


@dataclass
class Teacher:
    """What the target says about the n learnt tokens of a batch.

    rows, columns [n]: where they stand; logits [n, U]: on the draft vocabulary; best [n]: the target's argmax;
    covered [n]: whether that argmax is in the draft vocabulary, elsewhere nothing is learnt.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    logits: torch.Tensor
    best: torch.Tensor
    covered: torch.Tensor


@torch.no_grad()
def ask_teacher(target, states: torch.Tensor, labels: torch.Tensor, draft_to_target: torch.Tensor) -> Teacher:
    """The target's opinion on every labelled token, from its final-normed states [B, S, H]; labels -100 are not learnt.

    The first two tokens of a row have no slot that could predict them.
    """
    rows, columns = (labels[:, 2:] != -100).nonzero(as_tuple=True)
    columns = columns + 2
    states = states[rows, columns - 1]
    full = [target_logits(target, chunk) for chunk in states.split(CHUNK)] if len(rows) else []
    best = torch.cat([logits.argmax(-1) for logits in full]) if full else rows
    logits = torch.cat([logits[:, draft_to_target] for logits in full]) if full else states[:, :0]
    return Teacher(rows, columns, logits, best, torch.isin(best, draft_to_target))


def soft_cross_entropy(draft_logits: torch.Tensor, target_logits: torch.Tensor) -> torch.Tensor:
    """-sum_u p_u log q_u per row [n], p the target's distribution renormalised over the draft vocabulary (EAGLE-3)."""
    target_probs = target_logits.float().softmax(-1)
    draft_logits = draft_logits.float()
    return draft_logits.logsumexp(-1) - (target_probs * draft_logits).sum(-1)


def ttt_loss(head, outputs: list[torch.Tensor], teacher: Teacher, decay: float = 0.8):
    """(summed loss, hits [K], trials [K]) over the passes' outputs [B, S, H]; pass k weighs decay ** k.

    hits[k] counts argmax agreements with the target over its whole vocabulary among trials[k] learnt tokens.
    """
    loss, hits, trials = outputs[0].new_zeros(()), [], []
    draft_to_target = head.draft_to_target
    for ttt_step, output in enumerate(outputs):
        slots = teacher.columns - 2 - ttt_step
        kept = slots >= 0
        draft_logits = head.logits(output[teacher.rows[kept], slots[kept]])
        losses = soft_cross_entropy(draft_logits, teacher.logits[kept])
        loss = loss + decay**ttt_step * (losses * teacher.covered[kept]).sum()
        hits.append((draft_to_target[draft_logits.argmax(-1)] == teacher.best[kept]).sum())
        trials.append(kept.sum())
    return loss, torch.stack(hits), torch.stack(trials)
