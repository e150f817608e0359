"""Acceptance by depth and rank: the shares from which fixed trees are planned.

D depths, W ranks, that is children per node.

`shares`, float [D, W], is the one convention of this module and its users:

    shares[d, k] = P(the child of rank k is accepted | its parent, at depth d, was accepted)

Rank 0 is the drafter's best guess. Siblings exclude each other, so a row sums to at most 1. Depths
beyond the last row are taken to be like the last row.

The paper (Sequoia, arXiv 2402.12374, section 4) uses the same numbers at all depths, in another
form: p[k] = P(rank k is accepted | its earlier siblings were not). Both forms hold the same
information:

    shares[k] = p[k] * prod over j < k of (1 - p[j])
"""

import numpy
from numpy.typing import ArrayLike

# A row of shares sums to at most 1, up to the rounding of a division.
ROUNDING = 1e-9


def acceptance_vector(counts: tuple[ArrayLike, ArrayLike]) -> numpy.ndarray:
    """Turn counted acceptances into shares.

    A depth without trials takes the shares of the deepest tried depth above it. Counts belong to
    one way of choosing tokens: do not mix greedy and sampled rounds.

    Example: 10 tries at the root, 4 one level deeper, none below that.

        >>> acceptance_vector(([10, 4, 0], [[5, 2], [1, 0], [0, 0]])).tolist()
        [[0.5, 0.2], [0.25, 0.0], [0.25, 0.0]]

    Args:
        counts: The pair (trials [D], accepted [D, W]). trials[d] is the number of accepted nodes at
            depth d that were offered all W children. accepted[d, k] is in how many of these the
            child of rank k was accepted.

    Returns:
        Shares, float [D, W].

    Raises:
        ValueError: If the shapes do not fit, a count is impossible, or the root was never tried.
    """
    trials, accepted = counts
    trials = numpy.asarray(trials, dtype=float)  # [D]
    accepted = numpy.asarray(accepted, dtype=float)  # [D, W]
    _check_counts(trials, accepted)
    # The deepest tried depth down to each depth: [0, 0, 2, 2] where trials are [10, 0, 5, 0].
    tried = numpy.where(trials > 0, numpy.arange(len(trials)), 0)  # [D]
    source = numpy.maximum.accumulate(tried)  # [D]
    return accepted[source] / trials[source, None]


def shares_by_depth(shares: ArrayLike, depth: int) -> numpy.ndarray:
    """Check shares, and give each depth that drafts a row of its own.

    Args:
        shares: Shares [D, W].
        depth: The number of depths that draft, from the root's on.

    Returns:
        Shares, float [depth, W]. Depths beyond the last given row repeat that row.

    Raises:
        ValueError: If the shape is not [D, W], or a row is not a set of exclusive probabilities.
    """
    shares = numpy.asarray(shares, dtype=float)
    if shares.ndim != 2 or not shares.size:
        raise ValueError(
            f"shares have the shape {shares.shape}; needed is [depths, children], "
            "as acceptance_vector gives it"
        )
    # Both comparisons are false for nan, so nan is refused as well.
    are_probabilities = (shares >= 0).all()
    are_exclusive = (shares.sum(1) <= 1 + ROUNDING).all()
    if not (are_probabilities and are_exclusive):
        raise ValueError(
            "each row of shares must be probabilities that sum to at most 1; "
            "Sequoia's p is not yet shares, see the module"
        )
    source = numpy.minimum(numpy.arange(depth), len(shares) - 1)  # [depth]
    return shares[source]


def _check_counts(trials: numpy.ndarray, accepted: numpy.ndarray) -> None:
    """Raise a ValueError unless trials [D] and accepted [D, W] can be counts of the same rounds."""
    have_shapes = trials.ndim == 1 and accepted.ndim == 2
    if not have_shapes or len(trials) != len(accepted) or not accepted.size:
        raise ValueError(
            f"counts have the shapes {trials.shape} and {accepted.shape}; "
            "needed are trials [D] and accepted [D, W]"
        )
    are_finite = numpy.isfinite(trials).all() and numpy.isfinite(accepted).all()
    if not are_finite or (accepted < 0).any():
        raise ValueError(
            "counts must be finite and not negative; count again from the verification logs"
        )
    # This refuses negative trials too: no count of accepted children is below them.
    for depth, accepted_children in enumerate(accepted.sum(1)):
        if accepted_children > trials[depth]:
            raise ValueError(
                f"at depth {depth} {accepted_children:g} children were accepted "
                f"in {trials[depth]:g} trials; a trial accepts one child at most"
            )
    if not trials[0]:
        raise ValueError(
            "the root was never tried, so there is nothing to plan from; measure at least one round"
        )
