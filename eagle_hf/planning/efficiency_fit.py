"""The efficiency of a machine, found from measured speedups.

A speedup is a ratio of times, so a factor common to all times cancels. Speedups therefore determine
two of an `Efficiency`'s three numbers: `memory` is given and scales the seconds, and the pair
(compute, layer_seconds) is fitted.
"""

from collections.abc import Callable, Sequence

import numpy

from eagle_hf.planning.machines import Efficiency
from eagle_hf.planning.simulated import Simulated

# A predicted speedup, as a function of the efficiency, and the speedup measured there.
Cell = tuple[Callable[[Efficiency], Simulated], float]

# Where the search begins, and the factor by which it first moves.
START_COMPUTE = 0.2
START_LAYER_SECONDS = 1e-4
START_STEP = 4.0
# The search ends at steps below this factor.
LAST_STEP = 1.0002
# It also ends where layer_seconds vanish: all smaller ones explain the cells alike.
LEAST_LAYER_SECONDS = 1e-9
# Below this singular value of their sensitivities, the cells do not determine the pair.
LEAST_SENSITIVITY = 1e-3


def fit_efficiency(cells: Sequence[Cell], memory: float = 0.9) -> Efficiency:
    """Find the pair (compute, layer_seconds) that explains measured speedups best.

    Best is the least sum of squared logarithms of predicted / measured. Two cells are enough if
    multiplications rule one (a large batch), and the layers' seconds the other (a small batch, long
    enough to gain).

    Args:
        cells: Pairs of a prediction, as a function of the efficiency, and the speedup measured
            there.
        memory: The fraction of peak bandwidth, which speedups do not determine.

    Returns:
        The efficiency.

    Raises:
        ValueError: If the cells do not determine the pair.
    """
    best = _compass_search(cells, memory)
    if len(cells) < 2 or _least_sensitivity(cells, best) < LEAST_SENSITIVITY:
        raise ValueError(
            f"{len(cells)} cell(s) arrived that do not tell compute (found {best.compute:.3g}) and "
            f"layer_seconds (found {best.layer_seconds:.3g}) apart, or no pair explains them; add "
            "cells at other batch sizes and lengths, or check acceptance and window"
        )
    return best


def _compass_search(cells: Sequence[Cell], memory: float) -> Efficiency:
    """Move to the best neighbour; where none is better, take the root of the step."""

    def squared_error(efficiency: Efficiency) -> float:
        return (_errors(cells, efficiency) ** 2).sum()

    best = Efficiency(memory, START_COMPUTE, START_LAYER_SECONDS)
    step = START_STEP
    while step > LAST_STEP and best.layer_seconds > LEAST_LAYER_SECONDS:
        winner = min(_neighbours(best, step), key=squared_error)
        if winner == best:
            step = step**0.5
        best = winner
    return best


def _neighbours(efficiency: Efficiency, step: float) -> list[Efficiency]:
    """List an efficiency, and those a factor `step` away in compute, layer_seconds or both.

    The efficiency itself comes first, so it wins ties.
    """
    neighbours = []
    for compute_power in (0, -1, 1):
        for seconds_power in (0, -1, 1):
            # No machine exceeds its peak.
            compute = min(efficiency.compute * step**compute_power, 1.0)
            layer_seconds = efficiency.layer_seconds * step**seconds_power
            neighbours.append(Efficiency(efficiency.memory, compute, layer_seconds))
    return neighbours


def _errors(cells: Sequence[Cell], efficiency: Efficiency) -> numpy.ndarray:
    """Compute the logarithm of predicted / measured, for every cell."""
    ratios = [predict(efficiency).value / measured for predict, measured in cells]
    return numpy.log(ratios)


def _least_sensitivity(cells: Sequence[Cell], efficiency: Efficiency) -> float:
    """Return the least singular value of the predictions' slopes in both numbers of the pair."""
    less_compute = Efficiency(efficiency.memory, efficiency.compute * 0.9, efficiency.layer_seconds)
    less_seconds = Efficiency(efficiency.memory, efficiency.compute, efficiency.layer_seconds * 0.9)
    errors = _errors(cells, efficiency)  # [cells]
    slopes = [
        _errors(cells, less_compute) - errors,
        _errors(cells, less_seconds) - errors,
    ]  # [2, cells]
    return float(numpy.linalg.svd(slopes, compute_uv=False)[-1])
