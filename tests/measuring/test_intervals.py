"""Bootstrap intervals of tau."""

import math
import random

import pytest

from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.measuring.intervals import median_interval, tau_difference, tau_interval


def runs(taus, rounds=10):
    return [DecodingStats(rounds=rounds, tokens=round(tau * rounds)) for tau in taus]


def test_the_interval_is_that_of_the_mean_where_rounds_are_equal():
    generator = random.Random(3)
    taus = [generator.gauss(2.0, 0.4) for _ in range(200)]
    low, high = tau_interval(runs(taus, rounds=1000))
    mean = sum(taus) / len(taus)
    variance = sum((tau - mean) ** 2 for tau in taus) / len(taus)
    error = math.sqrt(variance / len(taus))
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)


def test_about_one_interval_in_twenty_misses():
    generator = random.Random(1)
    missed = 0
    for seed in range(200):
        taus = [generator.gauss(2.0, 0.4) for _ in range(60)]
        low, high = tau_interval(runs(taus, rounds=1000), seed=seed)
        missed += not low <= 2.0 <= high
    assert 3 <= missed <= 25


def test_a_difference_is_seen_through_the_spread_of_prompts():
    generator = random.Random(5)
    theirs = [generator.uniform(1.2, 3.0) for _ in range(60)]
    better = [tau + 0.1 for tau in theirs]
    low, high = tau_difference(runs(better, 1000), runs(theirs, 1000))
    assert 0 < low <= 0.1 <= high
    assert low == pytest.approx(0.1, abs=0.01)
    spread_low, spread_high = tau_interval(runs(theirs, 1000))
    assert spread_high - spread_low > 0.1  # unpaired, it would have drowned
    noisy = [tau + generator.gauss(0, 0.3) for tau in theirs]
    low, high = tau_difference(runs(noisy, 1000), runs(theirs, 1000))
    assert low < 0 < high


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="no runs"):
        tau_interval([])
    with pytest.raises(ValueError, match="2 runs against 1"):
        tau_difference(runs([1, 2]), runs([1]))


def test_draws_without_any_round_say_nothing():
    low, high = tau_interval([DecodingStats()])
    assert math.isnan(low)
    assert math.isnan(high)
    assert tau_interval([DecodingStats(), *runs([2.0])]) == (2.0, 2.0)


def test_the_interval_of_a_median_is_between_the_middle_values():
    low, high = median_interval([1.0] * 10 + [2.0] * 81 + [9.0] * 10)
    assert (low, high) == (2.0, 2.0)
    low, high = median_interval([1.0, 2.0, 3.0])
    assert (low, high) == (1.0, 3.0)
