"""How sure a measured tau is: bootstrap over prompts (Efron 1979, percentile intervals).

Prompts are the unit: the rounds of one answer depend on each other. What differs from one training run to the next is
not in these intervals.
"""

from collections.abc import Sequence

import numpy

from eagle_hf.decoding.stats import DecodingStats

DRAWS, LEVEL = 5000, 0.95


def tau_interval(runs: Sequence[DecodingStats], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the tau of all runs taken together, one run a prompt; (nan, nan) without rounds."""
    return middle(resampled_tau(runs, seed))


def tau_difference(
    ours: Sequence[DecodingStats], theirs: Sequence[DecodingStats], seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of tau(ours) - tau(theirs), run i of both on the same prompt. Holds 0: no difference seen."""
    if len(ours) != len(theirs):
        raise ValueError(
            f"{len(ours)} runs against {len(theirs)}; a paired interval needs the same prompts in both"
        )
    return middle(resampled_tau(ours, seed) - resampled_tau(theirs, seed))


def ratio_interval(
    ours: Sequence[float], theirs: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the ratio of two medians; repetition i of both ran side by side, and they are drawn together."""
    drawn = numpy.random.default_rng(seed).integers(len(ours), size=(DRAWS, len(ours)))
    return middle(
        numpy.median(numpy.array(ours)[drawn], axis=1)
        / numpy.median(numpy.array(theirs)[drawn], axis=1)
    )


def resampled_tau(runs: Sequence[DecodingStats], seed: int) -> numpy.ndarray:
    """Tau of as many prompts drawn with replacement, DRAWS times; the same prompts for one seed and count."""
    if not runs:
        raise ValueError(
            "there are no runs to take an interval of; pass one DecodingStats per prompt"
        )
    drawn = numpy.random.default_rng(seed).integers(len(runs), size=(DRAWS, len(runs)))
    tokens, rounds = (
        numpy.array([getattr(run, name) for run in runs], dtype=float)
        for name in ("tokens", "rounds")
    )
    with numpy.errstate(invalid="ignore"):
        return tokens[drawn].sum(1) / rounds[drawn].sum(1)


def middle(values: numpy.ndarray) -> tuple[float, float]:
    """The bounds of the middle LEVEL of the values; draws in which no prompt had a round are left out."""
    values = values[~numpy.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = numpy.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
