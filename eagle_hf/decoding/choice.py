"""The target's next token as `generate` would choose it.

Rows that advance together form a group: r rows at one length. Groups advance at different speeds.
R rows of the call, L tokens of a row, V vocabulary.
"""

import torch


class TargetChoice:
    """The target's next tokens as `generate` would choose them, and the scores that it keeps.

    Args:
        logits_processor: of the call.
        generation_config: of the call.
        groups: how many groups the rows of the call form.
    """

    def __init__(self, logits_processor, generation_config, groups: int):
        self.logits_processor = logits_processor
        self.do_sample = generation_config.do_sample
        keeps = generation_config.return_dict_in_generate
        self.scores = _lists(groups) if keeps and generation_config.output_scores else None
        self.raw_logits = _lists(groups) if keeps and generation_config.output_logits else None

    @property
    def is_plain_argmax(self) -> bool:
        """Whether logits alone decide, so that all nodes can be decided at once."""
        keeps_none = self.scores is None and self.raw_logits is None
        return keeps_none and not self.do_sample and not len(self.logits_processor)

    def __call__(self, group: int, prefixes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The tokens [r] after `prefixes` [r, L], left padding included, given logits [r, V]."""
        scores = self.processed(group, prefixes, logits)
        if self.do_sample:
            return torch.multinomial(scores.softmax(-1), num_samples=1)[:, 0]
        return scores.argmax(-1)

    def processed(self, group: int, prefixes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The scores [r, V] that generate would choose from."""
        logits = logits.to(copy=True, dtype=torch.float32, device=prefixes.device)
        scores = self.logits_processor(prefixes, logits)
        if self.scores is not None:
            self.scores[group].append(scores)
        if self.raw_logits is not None:
            self.raw_logits[group].append(logits)
        return scores

    def scores_of(self, group: int) -> tuple[torch.Tensor, ...] | None:
        """The scores [r, V] of a group so far, as stopping criteria are given them."""
        return None if self.scores is None else tuple(self.scores[group])

    def collected(self) -> tuple[tuple | None, tuple | None]:
        """(scores, raw logits) as `generate` returns them."""
        return join_groups(self.scores), join_groups(self.raw_logits)


def join_groups(kept: list[list[torch.Tensor]] | None) -> tuple[torch.Tensor, ...] | None:
    """Lists of [r, V] by group as `generate` returns them: one [R, V] per step.

    A row that had ended before has zeros.
    """
    if kept is None:
        return None
    blank = torch.zeros_like(kept[0][0])
    steps = []
    for step in range(max(len(group) for group in kept)):
        values = [group[step] if step < len(group) else blank for group in kept]
        steps.append(torch.cat(values))
    return tuple(steps)


def _lists(count: int) -> list[list[torch.Tensor]]:
    """An empty list for each group."""
    return [[] for _ in range(count)]
