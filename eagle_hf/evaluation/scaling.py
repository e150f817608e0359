"""Tau against the response tokens that a head was trained on.

The model is a straight line in the logarithm of the tokens. Beyond the largest measured point the
line is a guess, and every text and plot calls it an extrapolation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.plotting import open_pyplot
from eagle_hf.measuring.intervals import percentile_interval, resampled_tau

Interval = tuple[float, float]


@dataclass
class Scaling:
    """A fitted line of tau over log2(response tokens).

    Args:
        points: (response tokens, tau, its 95 % interval) of each head, ascending.
        tau_per_doubling: slope of the line.
        doubling_interval: its 95 % interval.
        times: how far the line is extrapolated, in multiples of the largest point's tokens.
        extrapolated_tau: tau at its end.
        extrapolated_interval: the 95 % interval there, if the line holds.
    """

    points: list[tuple[int, float, Interval]]
    tau_per_doubling: float
    doubling_interval: Interval
    times: int
    extrapolated_tau: float
    extrapolated_interval: Interval

    @property
    def summary(self) -> str:
        """Two sentences for a model card."""
        fewest_tokens = self.points[0][0]
        most_tokens, last_tau, _ = self.points[-1]
        low, high = self.doubling_interval
        far_low, far_high = self.extrapolated_interval
        return (
            f"Every doubling of the response tokens added {self.tau_per_doubling:.3f} to tau "
            f"(95 %: {low:.3f} to {high:.3f}), over {len(self.points)} heads trained on "
            f"{fewest_tokens:,} to {most_tokens:,} tokens, the last with tau {last_tau:.2f}. "
            f"Extrapolation, not a measurement: {self.times} times as many would give "
            f"{self.extrapolated_tau:.2f} ({far_low:.2f} to {far_high:.2f} if the line holds)."
        )


def fit_scaling(
    tokens: Sequence[int], runs: Sequence[Sequence[DecodingStats]], times: int = 10
) -> Scaling:
    """Fit the least-squares line of tau over log2(tokens).

    Intervals are bootstrapped over prompts. They do not contain how one training run differs from
    the next.

    Args:
        tokens: response tokens of each head's training data.
        runs: for each head one DecodingStats per prompt, the same prompts for all heads.
        times: how far to extrapolate, in multiples of the largest number of tokens.

    Returns:
        The line.

    Raises:
        ValueError: for fewer than three different points.
    """
    if len(tokens) < 3 or len(set(tokens)) < len(tokens):
        raise ValueError(
            f"{len(tokens)} points at {sorted(tokens)} tokens; a line worth drawing needs three "
            "different ones or more"
        )
    # 1) the measured points, by their tokens
    counts = []
    taus = []
    resampled = []
    for index in sorted(range(len(tokens)), key=tokens.__getitem__):
        counts.append(tokens[index])
        taus.append(sum(runs[index], DecodingStats(rows=0)).tau)
        # one seed: every head is resampled on the same prompts
        resampled.append(resampled_tau(runs[index], seed=0))

    # 2) a line through them, and one through each resampling
    doublings = numpy.log2(counts)  # [P] of P heads
    slope, intercept = numpy.polyfit(doublings, taus, 1)
    slopes, intercepts = numpy.polyfit(doublings, numpy.stack(resampled), 1)  # [P, draws]

    # 3) the end of the line
    end = numpy.log2(times * counts[-1])
    points = []
    for count, tau, draws in zip(counts, taus, resampled, strict=True):
        points.append((count, tau, percentile_interval(draws)))
    return Scaling(
        points=points,
        tau_per_doubling=float(slope),
        doubling_interval=percentile_interval(slopes),
        times=times,
        extrapolated_tau=float(intercept + slope * end),
        extrapolated_interval=percentile_interval(intercepts + slopes * end),
    )


def draw_scaling(path: str | Path, scaling: Scaling) -> None:
    """Draw the points with their intervals and the line, its extrapolated part dashed.

    Args:
        path: the picture to write.
        scaling: as `fit_scaling` returns it.
    """
    pyplot = open_pyplot()
    tokens = numpy.array([point[0] for point in scaling.points])
    taus = numpy.array([point[1] for point in scaling.points])
    intervals = numpy.array([point[2] for point in scaling.points])  # [P, 2]
    last = tokens[-1]
    end = scaling.times * last
    slope = scaling.tau_per_doubling

    def tau_on_line(count: numpy.ndarray | int) -> numpy.ndarray | float:
        return scaling.extrapolated_tau + slope * numpy.log2(count / end)

    figure, axes = pyplot.subplots(figsize=(5.5, 3.5), layout="constrained")
    errors = abs(intervals.T - taus)  # [2, P]
    axes.errorbar(
        tokens, taus, yerr=errors, fmt="o", capsize=3, label="measured, 95 % over prompts"
    )
    axes.plot(tokens, tau_on_line(tokens), color="C1", label=f"{slope:+.3f} per doubling")
    axes.plot(
        [last, end],
        [tau_on_line(last), tau_on_line(end)],
        "--",
        color="C1",
        label="extrapolation, not measured",
    )
    axes.vlines(end, *scaling.extrapolated_interval, color="C1", linestyle=":")
    axes.set(xscale="log", xlabel="response tokens trained on", ylabel="tau (tokens per round)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
