"""Tau against the response tokens a head was trained on: a straight line in their logarithm, fitted and drawn.

Beyond the largest measured point the line is a guess, and is called extrapolation wherever it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.measuring.intervals import percentile_interval, resampled_tau


@dataclass
class Scaling:
    """points: (response tokens, tau, its 95 % interval), ascending; the line, and what it says of `times` as many tokens."""

    points: list[tuple[int, float, tuple[float, float]]]
    tau_per_doubling: float
    doubling_interval: tuple[float, float]
    times: int
    extrapolated_tau: float
    extrapolated_interval: tuple[float, float]

    @property
    def summary(self) -> str:
        """Two sentences for a card."""
        tokens, last, _ = self.points[-1]
        return (
            f"Every doubling of the response tokens added {self.tau_per_doubling:.3f} to tau (95 %: {self.doubling_interval[0]:.3f} to "
            f"{self.doubling_interval[1]:.3f}), over {len(self.points)} heads trained on {self.points[0][0]:,} to {tokens:,} tokens, the last "
            f"with tau {last:.2f}. Extrapolation, not a measurement: {self.times} times as many would give {self.extrapolated_tau:.2f} "
            f"({self.extrapolated_interval[0]:.2f} to {self.extrapolated_interval[1]:.2f} if the line holds)."
        )


def fit_scaling(
    tokens: Sequence[int], runs: Sequence[Sequence[DecodingStats]], times: int = 10
) -> Scaling:
    """The least-squares line of tau over log2(tokens); runs[i]: one DecodingStats per prompt, the same prompts for each i.

    Intervals are bootstrapped over prompts: how one training run differs from the next is not in them.
    """
    if len(tokens) < 3 or len(set(tokens)) < len(tokens):
        raise ValueError(
            f"{len(tokens)} points at {sorted(tokens)} tokens; a line worth drawing needs three different ones or more"
        )
    order = sorted(range(len(tokens)), key=tokens.__getitem__)
    tokens, runs = [tokens[i] for i in order], [runs[i] for i in order]
    taus = [sum(run, DecodingStats(rows=0)).tau for run in runs]
    drawn = numpy.stack(
        [resampled_tau(run, seed=0) for run in runs]
    )  # one seed: the same prompts in every row
    doublings, there = numpy.log2(tokens), numpy.log2(times * tokens[-1])
    slope, start = numpy.polyfit(doublings, taus, 1)
    slopes, starts = numpy.polyfit(doublings, drawn, 1)
    points = [(count, tau, percentile_interval(row)) for count, tau, row in zip(tokens, taus, drawn)]
    return Scaling(
        points,
        float(slope),
        percentile_interval(slopes),
        times,
        float(start + slope * there),
        percentile_interval(starts + slopes * there),
    )


def draw_scaling(path: str | Path, scaling: Scaling) -> None:
    """The points with their intervals, the line, and its extrapolated part dashed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    tokens, taus, intervals = (numpy.array(values) for values in zip(*scaling.points))
    end, slope = scaling.times * tokens[-1], scaling.tau_per_doubling

    def line(count):
        return scaling.extrapolated_tau + slope * numpy.log2(count / end)

    figure, axes = pyplot.subplots(figsize=(5.5, 3.5), layout="constrained")
    axes.errorbar(
        tokens,
        taus,
        yerr=abs(intervals.T - taus),
        fmt="o",
        capsize=3,
        label="measured, 95 % over prompts",
    )
    axes.plot(tokens, line(tokens), color="C1", label=f"{slope:+.3f} per doubling")
    axes.plot(
        [tokens[-1], end],
        [line(tokens[-1]), line(end)],
        "--",
        color="C1",
        label="extrapolation, not measured",
    )
    axes.vlines(end, *scaling.extrapolated_interval, color="C1", linestyle=":")
    axes.set(xscale="log", xlabel="response tokens trained on", ylabel="tau (tokens per round)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
