"""A mixture of categories: as given, or as a server's users ask, reached within 1 %.

A head is measured by what is asked of it, so its training prompts should be of the same kinds in
the same shares:

    log of 1,000 requests   code 430, chat 570       shares  {"code": 0.43, "chat": 0.57}
    mix_prompts(..., 200)   code 86, chat 114        the largest remainders get the last prompts
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eagle_hf.data.rows import Prompt, SkippedLine, first_reasons
from eagle_hf.data.selection.categories import estimate_category
from eagle_hf.data.selection.languages import LanguageDetector
from eagle_hf.data.selection.request_logs import read_requests

TOLERANCE = 0.01  # how far the share of a category may be from what is wanted
ROUNDING = 1e-3  # how far shares that were typed in may be from a sum of 1
NORMAL_95 = 1.96  # standard deviations on both sides that hold 95 % of a normal distribution


@dataclass(frozen=True)
class MixtureEstimate:
    """The shares of categories in a sample of requests.

    Attributes:
        counts: requests of each category, the largest first.
        skipped: lines of the log that held no request.
    """

    counts: dict[str, int]
    skipped: list[SkippedLine]

    @property
    def requests(self) -> int:
        """How many requests were counted."""
        return sum(self.counts.values())

    @property
    def shares(self) -> dict[str, float]:
        """The share of each category; they sum to 1."""
        return {name: number / self.requests for name, number in self.counts.items()}

    def margin(self, category: str) -> float:
        """How far the share of a category may be off, because the log is a sample.

        Args:
            category: one of `counts`.

        Returns:
            Half the width of the 95 % interval of the share (normal approximation).
        """
        share = self.shares[category]
        return NORMAL_95 * math.sqrt(share * (1 - share) / self.requests)


def estimate_mixture(path: str | Path, detector: LanguageDetector | None = None) -> MixtureEstimate:
    """Estimate which categories of prompts a server's users send, in which shares.

    Args:
        path: a sample of the server's log, JSON lines of requests (see request_logs.py).
        detector: tells French from English, as for `estimate_category`.

    Returns:
        The shares. A request keeps the category that the log gives it.

    Raises:
        ValueError: no line holds a request.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    skipped: list[SkippedLine] = []
    for request in read_requests(path, skipped):
        counts[request.category or estimate_category(request.text, detector)] += 1
    if not counts:
        reasons = first_reasons(skipped, "there were none")
        raise ValueError(f"none of {len(skipped)} lines of {path.name} is a request ({reasons})")
    return MixtureEstimate(dict(counts.most_common()), skipped)


def mix_prompts(
    prompts: Iterable[Prompt],
    shares: Mapping[str, float],
    count: int | None = None,
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> list[Prompt]:
    """Draw prompts so that each category has its share.

    Args:
        prompts: of all categories that have a share; others are left out.
        shares: by category. They sum to 1.
        count: how many prompts to draw. Default: as many as the scarcest category allows.
        seed: of the draw and of the order.
        tolerance: how far the share of a category may be from what is wanted.

    Returns:
        The prompts in a random order.

    Raises:
        ValueError: shares that sum to something else, a category with too few prompts, or a count
            too small for the tolerance.
    """
    _check_shares(shares)
    by_category: dict[str, list[Prompt]] = {name: [] for name in shares}
    for prompt in prompts:
        if prompt["category"] in by_category:
            by_category[prompt["category"]].append(prompt)
    available = {name: len(found) for name, found in by_category.items()}
    if count is None:
        count = _largest_count(shares, available)
    wanted = allot(shares, count)
    _check_supply(wanted, available, shares)
    _check_tolerance(wanted, shares, count, tolerance)
    generator = random.Random(seed)
    drawn: list[Prompt] = []
    for name, number in wanted.items():
        drawn += generator.sample(by_category[name], number)
    generator.shuffle(drawn)
    return drawn


def allot(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Share out a number of prompts by the largest remainders.

    Args:
        shares: by category; they sum to 1.
        count: how many prompts.

    Returns:
        A whole number for each category, together `count`, each less than 1 away from its share.
    """
    total = sum(shares.values())
    exact = {name: share / total * count for name, share in shares.items()}
    numbers = {name: math.floor(value) for name, value in exact.items()}
    missing = count - sum(numbers.values())

    def remainder(name: str) -> float:
        return exact[name] - numbers[name]

    for name in sorted(exact, key=remainder, reverse=True)[:missing]:
        numbers[name] += 1
    return numbers


def _largest_count(shares: Mapping[str, float], available: Mapping[str, int]) -> int:
    """The largest number of prompts for which no category has too few."""
    limits = [available[name] / share for name, share in shares.items() if share > 0]
    count = math.floor(min(limits))
    # Rounding up may ask for one prompt more than there is of a scarce category.
    while count > 0 and _lacking(allot(shares, count), available):
        count -= 1
    return count


def _lacking(wanted: Mapping[str, int], available: Mapping[str, int]) -> list[str]:
    """The categories of which more is wanted than there is."""
    return [name for name, number in wanted.items() if number > available[name]]


def _check_shares(shares: Mapping[str, float]) -> None:
    """Refuse shares that are no shares of one whole."""
    total = sum(shares.values())
    is_whole = math.isclose(total, 1, abs_tol=ROUNDING)
    if not is_whole or any(share < 0 for share in shares.values()):
        raise ValueError(
            f"the shares {dict(shares)} sum to {total:g}; they must be at least 0 and sum to 1"
        )


def _check_supply(
    wanted: Mapping[str, int], available: Mapping[str, int], shares: Mapping[str, float]
) -> None:
    """Refuse a mixture for which a category has too few prompts."""
    lacking = _lacking(wanted, available)
    is_empty = sum(wanted.values()) == 0
    if not lacking and not is_empty:
        return
    raise ValueError(
        f"these shares of {sum(wanted.values())} prompts need {dict(wanted)}, and there are "
        f"{dict(available)}; at most {_largest_count(shares, available)} can be drawn: "
        "ask for fewer, or add prompts"
    )


def _check_tolerance(
    wanted: Mapping[str, int], shares: Mapping[str, float], count: int, tolerance: float
) -> None:
    """Refuse a number of prompts that is too small for the shares."""
    total = sum(shares.values())
    for name, number in wanted.items():
        share = shares[name] / total
        reached = number / count
        if abs(reached - share) > tolerance:
            raise ValueError(
                f"{count} prompts give {name!r} a share of {reached:.3f}, and {share:.3f} within "
                f"{tolerance:g} is wanted; ask for at least {math.ceil(1 / tolerance)} prompts"
            )
