"""Counting the rounds of transformers' own assisted generation."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from eagle_hf.compat import wrapped_candidates
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.target import unwrap


@contextmanager
def counted_rounds(target: Any, stats: DecodingStats) -> Generator[None]:
    """Count the rounds of transformers' own assisted generation inside the block.

    Its first round reads the prompt as well, and counts.
    """
    with wrapped_candidates(unwrap(target), lambda made: CountedCandidates(made, stats)):
        yield


class CountedCandidates:
    """A candidate generator of transformers that counts drafts and how many are accepted."""

    def __init__(self, generator: Any, stats: DecodingStats):
        self._generator = generator
        self._stats = stats
        self._drafted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def get_candidates(self, input_ids, *args, **kwargs):
        """Drafts behind a text [1, S], as transformers asks for them."""
        candidates, logits = self._generator.get_candidates(input_ids, *args, **kwargs)
        self._drafted = candidates.shape[1] - input_ids.shape[1]
        return candidates, logits

    def update_candidate_strategy(self, input_ids, scores, num_matches):
        """What transformers says after a round."""
        count_chain(self._stats, self._drafted, int(num_matches))
        return self._generator.update_candidate_strategy(input_ids, scores, num_matches)


def count_chain(stats: DecodingStats, drafted: int, accepted: int) -> None:
    """Add a round that drafted a chain.

    Args:
        stats: of the call.
        drafted: tokens of the chain.
        accepted: of these, from the first on.
    """
    trials = min(drafted, accepted + 1)
    stats.count(trials, accepted, accepted + 1)
    stats.count_row(0, accepted + 1)
    stats.count_draft(drafted, accepted, drafted)
    for depth in range(trials):
        stats.count_node(".".join(["0"] * (depth + 1)), depth < accepted)
