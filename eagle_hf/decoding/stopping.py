"""When a row ends.

Lengths and end-of-turn tokens are checked on the host, so that no token has to wait for a GPU.
"""

import torch
from transformers import EosTokenCriteria, GenerationConfig, MaxLengthCriteria

from eagle_hf.compat import end_tokens


def answer_lengths(answers: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """Tokens of each answer [R], up to its end token and that included.

    Args:
        answers: what generate put behind the prompts [R, L], padding included.
        config: of the prepared call.
    """
    is_end = torch.zeros_like(answers, dtype=torch.bool)
    ends = end_tokens(config)
    if ends is not None:
        is_end = torch.isin(answers, ends.to(answers.device))
    ended_before = is_end.cumsum(1) - is_end.long() > 0
    return (~ended_before).sum(1)


class Stopping:
    """The stopping criteria of one `generate` call, for one row at a time."""

    def __init__(self, criteria):
        self.limits = []
        self.end_tokens: set[int] = set()
        self.others = []
        for criterion in criteria:
            # subclasses may decide otherwise, so they are asked like any other
            if type(criterion) is MaxLengthCriteria:
                self.limits.append(criterion)
            elif type(criterion) is EosTokenCriteria:
                self.end_tokens.update(criterion.eos_token_id.flatten().tolist())
            else:
                self.others.append(criterion)

    def __call__(
        self, ids: torch.Tensor, token: int, scores: tuple[torch.Tensor, ...] | None
    ) -> bool:
        """Whether a row ends that consists of `ids` [1, L], the last of them `token`.

        Every criterion is asked, because some keep a state.
        """
        length = ids.shape[1]
        ends = token in self.end_tokens
        for limit in self.limits:
            if length - 1 == limit.max_position_embeddings:
                limit(ids, scores)  # it warns of a text longer than the model's context
            ends = ends or length >= limit.max_length
        for criterion in self.others:
            verdict = bool(criterion(ids, scores))
            ends = ends or verdict
        return ends
