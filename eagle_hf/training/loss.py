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
def best_tokens(target, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The target's argmax [B, S] after every position whose next token is learnt, -1 elsewhere."""
    learnt = torch.nn.functional.pad(labels[:, 1:] != -100, (0, 1))
    best = torch.full_like(labels, -1)
    chunks = states[learnt].split(CHUNK)
    best[learnt] = torch.cat([target_logits(target, chunk).argmax(-1) for chunk in chunks]) if len(chunks[0]) else best[learnt]
    return best


@torch.no_grad()
def ask_teacher(target, states: torch.Tensor, best: torch.Tensor, labels: torch.Tensor, draft_to_target: torch.Tensor) -> Teacher:
    """The target's opinion on every labelled token, from its final-normed states [B, S, H] and `best_tokens`.

    The first two tokens of a row have no slot that could predict them and are left out.
    """
    rows, columns = (labels[:, 2:] != -100).nonzero(as_tuple=True)
    columns = columns + 2
    best = best[rows, columns - 1]
    logits = target_logits(target, states[rows, columns - 1], draft_to_target)
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
