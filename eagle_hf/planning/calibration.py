"""How sure a drafter really is: its probabilities against how often its drafts are accepted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch

CERTAIN = (-30.0, -1e-6)  # log-probabilities beyond these count as these: their logits are finite
PRIOR = numpy.array([1.0, 0.0])  # slope and offset of a depth without drafts
CONVERGED = 1e-9  # the largest part of a Newton step that ends the fit


@dataclass(frozen=True)
class Calibration:
    """P(accepted | parent accepted) = sigmoid(slope * logit(p) + offset), by depth from 1.

    p is the drafter's probability of the draft. slopes and offsets have one entry per depth [D];
    deeper drafts are taken to be like the last.
    """

    slopes: tuple[float, ...] = (1.0,)
    offsets: tuple[float, ...] = (0.0,)

    def __call__(self, log_probs: torch.Tensor, depth: int) -> torch.Tensor:
        """Calibrated log-probabilities of drafts at `depth`."""
        index = min(depth, len(self.slopes)) - 1
        log_probs = log_probs.clamp(*CERTAIN)
        logit = log_probs - (-log_probs.expm1()).log()
        calibrated = self.slopes[index] * logit + self.offsets[index]
        return torch.nn.functional.logsigmoid(calibrated)


def fit_calibration(
    outcomes: Sequence[tuple[int, float, bool]], depths: int, steps: int = 50
) -> Calibration:
    """Logistic regression at every depth, with a light pull towards slope 1 and offset 0.

    Args:
        outcomes: (depth, log-probability, accepted) of drafts whose parent was accepted.
        depths: how many depths are fitted.
        steps: of Newton's method.
    """
    slopes = []
    offsets = []
    for depth in range(1, depths + 1):
        log_probs = []
        accepted = []
        for at, log_prob, is_accepted in outcomes:
            if at == depth:
                log_probs.append(log_prob)
                accepted.append(is_accepted)
        slope, offset = _logistic(_logits(log_probs), numpy.array(accepted, dtype=float), steps)
        slopes.append(float(slope))
        offsets.append(float(offset))
    return Calibration(tuple(slopes), tuple(offsets))


def _logits(log_probs: list[float]) -> numpy.ndarray:
    clipped = numpy.clip(numpy.array(log_probs, dtype=float), *CERTAIN)
    return clipped - numpy.log(-numpy.expm1(clipped))


def _logistic(logits: numpy.ndarray, outcomes: numpy.ndarray, steps: int) -> numpy.ndarray:
    """Weights (slope, offset) of P(outcome) = sigmoid(slope * logit + offset).

    Minimises the negative log-likelihood plus half the squared distance from PRIOR.
    """
    features = numpy.stack([logits, numpy.ones(len(logits))], axis=1)
    signs = 1 - 2 * outcomes
    weights = PRIOR

    def misfit(weights: numpy.ndarray) -> float:
        likelihood = numpy.logaddexp(0, signs * (features @ weights)).sum()
        return likelihood + ((weights - PRIOR) ** 2).sum() / 2

    for _ in range(steps):
        chance = 1 / (1 + numpy.exp(-features @ weights))
        gradient = features.T @ (chance - outcomes) + weights - PRIOR
        variance = (chance * (1 - chance))[:, None]
        curvature = features.T @ (features * variance) + numpy.eye(2)
        step = numpy.linalg.solve(curvature, gradient)
        # far from the solution Newton's step overshoots
        while numpy.abs(step).max() > CONVERGED and misfit(weights - step) > misfit(weights):
            step = step / 2
        weights = weights - step
    return weights
