"""When a row ends. Lengths and end-of-turn tokens are judged on the host, lest every token wait for a GPU."""

import torch
from transformers import EosTokenCriteria, MaxLengthCriteria


class Stopping:
    """The criteria of one `generate` call, for one row at a time."""

    def __init__(self, criteria):
        self.limits = [criterion for criterion in criteria if type(criterion) is MaxLengthCriteria]
        ends = [criterion for criterion in criteria if type(criterion) is EosTokenCriteria]
        self.ends = {
            token for criterion in ends for token in criterion.eos_token_id.flatten().tolist()
        }
        self.others = [
            criterion for criterion in criteria if criterion not in (*self.limits, *ends)
        ]

    def __call__(
        self, ids: torch.Tensor, token: int, scores: tuple[torch.Tensor, ...] | None
    ) -> bool:
        """Whether a row ends whose tokens are `ids` [1, L], the last of them `token`; every criterion is asked."""
        length = ids.shape[1]
        for limit in self.limits:
            if length - 1 == limit.max_position_embeddings:
                limit(ids, scores)  # it warns of a text longer than the model's context
        verdicts = [token in self.ends, any(length >= limit.max_length for limit in self.limits)]
        return any(verdicts + [bool(criterion(ids, scores)) for criterion in self.others])
