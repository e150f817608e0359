"""When a row ends.

Lengths and end-of-turn tokens are checked on the host, so that no token has to wait for a GPU.
"""

import torch
from transformers import EosTokenCriteria, MaxLengthCriteria


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
