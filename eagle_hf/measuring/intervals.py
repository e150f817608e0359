"""How sure a measured tau is: bootstrap over prompts (Efron 1979, percentile intervals).

Prompts are the unit, because the rounds of one answer depend on each other. What differs from one
training run to the next is not in these intervals.
"""

from collections.abc import Sequence

import numpy

from eagle_hf.decoding.stats import DecodingStats

DRAWS = 5000
LEVEL = 0.95


def tau_interval(runs: Sequence[DecodingStats], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the tau of all runs taken together.

    Args:
        runs: one per prompt.
        seed: of the draws.

    Returns:
        (low, high); nan without rounds.
    """
    return percentile_interval(resampled_tau(runs, seed))


def tau_difference(
    ours: Sequence[DecodingStats], theirs: Sequence[DecodingStats], seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of tau(ours) - tau(theirs); one that holds 0 shows no difference.

    Args:
        ours, theirs: run i of both on the same prompt.
        seed: of the draws.

    Returns:
        (low, high).

    Raises:
        ValueError: where the numbers of runs differ.
    """
    if len(ours) != len(theirs):
        raise ValueError(
            f"{len(ours)} runs against {len(theirs)}; a paired interval needs the same prompts in "
            "both"
        )
    return percentile_interval(resampled_tau(ours, seed) - resampled_tau(theirs, seed))


def median_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a median.

    Args:
        values: one per prompt, or whatever else is drawn.
        seed: of the draws.

    Returns:
        (low, high).
    """
    drawn = numpy.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    return percentile_interval(numpy.median(numpy.array(values)[drawn], axis=1))


def ratio_interval(
    ours: Sequence[float], theirs: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the ratio of two medians.

    Args:
        ours, theirs: repetition i of both ran side by side, so they are drawn together.
        seed: of the draws.

    Returns:
        (low, high).
    """
    drawn = numpy.random.default_rng(seed).integers(len(ours), size=(DRAWS, len(ours)))
    our_medians = numpy.median(numpy.array(ours)[drawn], axis=1)
    their_medians = numpy.median(numpy.array(theirs)[drawn], axis=1)
    return percentile_interval(our_medians / their_medians)


def resampled_tau(runs: Sequence[DecodingStats], seed: int) -> numpy.ndarray:
    """Tau [DRAWS] of as many prompts as there are, drawn with replacement.

    The prompts drawn are the same for one seed and count.
    """
    if not runs:
        raise ValueError(
            "there are no runs to take an interval of; pass one DecodingStats per prompt"
        )
    drawn = numpy.random.default_rng(seed).integers(len(runs), size=(DRAWS, len(runs)))
    tokens = numpy.array([run.tokens for run in runs], dtype=float)
    rounds = numpy.array([run.rounds for run in runs], dtype=float)
    with numpy.errstate(invalid="ignore"):
        return tokens[drawn].sum(1) / rounds[drawn].sum(1)


def percentile_interval(values: numpy.ndarray) -> tuple[float, float]:
    """The bounds of the middle LEVEL of the values; nan among them are left out."""
    values = values[~numpy.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = numpy.quantile(values, (tail, (1 + LEVEL) / 2))
    return float(low), float(high)
