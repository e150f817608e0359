"""Random acceptance to plan for."""

import numpy


def random_shares(
    seed: int, depth: int = 7, width: int = 7, ordered: bool = False
) -> numpy.ndarray:
    """Acceptance [depth, width] of each rank at each depth.

    Rows sum to 0.5 .. 0.95. Their ranks are in no order unless asked.
    """
    generator = numpy.random.default_rng(seed)
    shares = generator.dirichlet(numpy.full(width, 0.5), size=depth)
    shares *= generator.uniform(0.5, 0.95, (depth, 1))
    return -numpy.sort(-shares, axis=1) if ordered else shares
