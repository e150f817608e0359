"""The target's next token as `generate` would choose it.

V vocabulary, L tokens of a row, B rows.
"""

import torch


class TargetChoice:
    """The target's next token as `generate` would choose it, and the scores that it keeps.

    Args:
        logits_processor: of the call.
        generation_config: of the call.
        rows: of the batch.
    """

    def __init__(self, logits_processor, generation_config, rows: int):
        self.logits_processor = logits_processor
        self.do_sample = generation_config.do_sample
        keeps = generation_config.return_dict_in_generate
        self.scores = _rows(rows) if keeps and generation_config.output_scores else None
        self.raw_logits = _rows(rows) if keeps and generation_config.output_logits else None

    @property
    def is_plain_argmax(self) -> bool:
        """Whether logits alone decide, so that all nodes can be decided at once."""
        keeps_none = self.scores is None and self.raw_logits is None
        return keeps_none and not self.do_sample and not len(self.logits_processor)

    def __call__(self, row: int, prefix: torch.Tensor, logits: torch.Tensor) -> int:
        """The token after `prefix` [1, L], left padding included, given logits [V]."""
        scores = self.processed(row, prefix, logits)
        if self.do_sample:
            return int(torch.multinomial(scores.softmax(-1), num_samples=1))
        return int(scores.argmax(-1))

    def processed(self, row: int, prefix: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The scores [1, V] that generate would choose from."""
        logits = logits[None].to(copy=True, dtype=torch.float32, device=prefix.device)
        scores = self.logits_processor(prefix, logits)
        if self.scores is not None:
            self.scores[row].append(scores[0])
        if self.raw_logits is not None:
            self.raw_logits[row].append(logits[0])
        return scores

    def scores_of(self, row: int) -> tuple[torch.Tensor, ...] | None:
        """The scores [1, V] of a row so far, as stopping criteria are given them."""
        if self.scores is None:
            return None
        return tuple(score[None] for score in self.scores[row])

    def collected(self) -> tuple[tuple | None, tuple | None]:
        """(scores, raw logits) as `generate` returns them."""
        return stack_rows(self.scores), stack_rows(self.raw_logits)


def stack_rows(kept: list[list[torch.Tensor]] | None) -> tuple[torch.Tensor, ...] | None:
    """Lists of [V] by row as `generate` returns them: one [B, V] per step.

    A row that had ended before has zeros.
    """
    if kept is None:
        return None
    blank = torch.zeros_like(kept[0][0])
    steps = []
    for step in range(max(len(row) for row in kept)):
        values = [row[step] if step < len(row) else blank for row in kept]
        steps.append(torch.stack(values))
    return tuple(steps)


def _rows(count: int) -> list[list[torch.Tensor]]:
    return [[] for _ in range(count)]
