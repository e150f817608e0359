"""What the records of a run come to, and what each measure means."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy

from eagle_hf.data.answers.draft_counts import DraftCounts, counts_of
from eagle_hf.evaluation.serving.records import RequestRecord
from eagle_hf.measuring.intervals import median_interval

ALL = "all"
DEFINITIONS = {
    "ttft_ms": "time to first token: from sending the request to its first token",
    "tpot_ms": "time per output token: (e2e - ttft) / (tokens - 1), one value per request",
    "itl_ms": (
        "inter-token latency: the wait before each token after the first chunk, one value per "
        "token; the k tokens of one chunk each waited a k-th of the time since the chunk before"
    ),
    "e2e_ms": "end to end: from sending the request to its last token",
    "output_tokens_s": (
        "output throughput: tokens of whole answers per second, from the first request sent to "
        "the last one ended"
    ),
    "goodput": "whole answers per second that kept every limit",
    "tau": "tokens per round: 1 + accepted drafts / rounds, over all rounds of the run",
    "alpha": "share of drafts accepted at each depth, of those whose earlier drafts were accepted",
    "concurrency": (
        "closed: so many requests are in flight, each followed by the next; poisson: requests "
        "come at a rate, with exponential gaps"
    ),
    "interval": "95 % of the median, bootstrapped over the requests of the run",
    "median, p99": "over requests, of itl over tokens; failed requests are counted, not timed",
}


@dataclass(frozen=True)
class Limits:
    """Limits of goodput in milliseconds; None is no limit.

    Attributes:
        ttft_ms, tpot_ms, e2e_ms: as defined above.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Limits | None":
        """Read limits as the command line has them.

        Args:
            texts: such as "ttft:500"; milliseconds.

        Returns:
            The limits; None without any.

        Raises:
            ValueError: another name, or no number above 0.
        """
        given: dict[str, float] = {}
        for text in texts:
            name, _, number = text.partition(":")
            try:
                given[f"{name}_ms"] = float(number)
            except ValueError:
                given[f"{name}_ms"] = 0.0
            is_known = name in ("ttft", "tpot", "e2e")
            if not is_known or not given[f"{name}_ms"] > 0:
                raise ValueError(
                    f"the limit is {text!r}; give ttft, tpot or e2e and milliseconds, as ttft:500"
                )
        return cls(**given) if given else None

    def given(self) -> dict[str, float]:
        """The limits that are set."""
        return {name: limit for name, limit in asdict(self).items() if limit is not None}

    def are_kept_by(self, record: RequestRecord) -> bool:
        """Whether a whole answer kept every limit; an answer of one token has no tpot to keep."""
        times = {"ttft_ms": record.ttft, "tpot_ms": record.tpot, "e2e_ms": record.e2e}
        for name, limit in self.given().items():
            seconds = times[name]
            if seconds is not None and seconds * 1000 > limit:
                return False
        return True


def measure(
    records: Sequence[RequestRecord],
    seconds: float | None,
    limits: Limits | None = None,
    acceptance: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The measured part of a row of serving.json.

    Args:
        records: of the run, or of one of its categories.
        seconds: that the run took. None for a category, whose requests share the run's time with
            others: it has no throughput and no goodput.
        limits: of goodput.
        acceptance: by the server's counters. None: what the answers say, where they do.
    """
    finished = [record for record in records if record.is_finished]
    if acceptance is None:
        counts = counts_in_answers(finished)
        acceptance = counts.acceptance("the server's answers") if counts else None
    return {
        "requests": _requests(records),
        "ttft_ms": spread_by_request(record.ttft for record in finished),
        "tpot_ms": spread_by_request(record.tpot for record in finished),
        "itl_ms": spread(gap for record in finished for gap in record.gaps),
        "e2e_ms": spread_by_request(record.e2e for record in finished),
        "output_tokens_s": _throughput(finished, seconds),
        "goodput": _goodput(finished, seconds, limits),
        "acceptance": acceptance,
    }


def counts_in_answers(records: Iterable[RequestRecord]) -> DraftCounts | None:
    """Add up what answers say of their own drafts.

    Args:
        records: of whole answers.

    Returns:
        The counts; None unless every answer says something.
    """
    total = DraftCounts(0, 0, 0)
    for record in records:
        own = counts_of(record.drafts, record.tokens)
        if own is None:
            return None
        total += own
    return total


def spread(seconds: Iterable[float | None]) -> dict[str, float] | None:
    """Median and p99 in milliseconds of what is not None; None without any value."""
    values = [value for value in seconds if value is not None]
    if not values:
        return None
    median, p99 = numpy.quantile(values, (0.5, 0.99)) * 1000
    return {"median": float(median), "p99": float(p99)}


def spread_by_request(seconds: Iterable[float | None]) -> dict[str, Any] | None:
    """The same with the median's interval; of a single request there is none."""
    values = [value for value in seconds if value is not None]
    found = spread(values)
    if found is None or len(values) < 2:
        return found
    low, high = median_interval([1000 * value for value in values])
    return found | {"interval": [low, high]}


def _requests(records: Sequence[RequestRecord]) -> dict[str, Any]:
    """How many were sent, and what became of them."""
    failed: dict[str, int] = {}
    finished = 0
    uncounted = 0
    for record in records:
        if record.is_finished:
            finished += 1
            uncounted += record.tokens is None
        else:
            failed[record.failure] = failed.get(record.failure, 0) + 1
    counts: dict[str, Any] = {"sent": len(records), "finished": finished, "failed": failed}
    if uncounted:
        counts["without_token_counts"] = uncounted
    return counts


def _throughput(finished: Sequence[RequestRecord], seconds: float | None) -> float | None:
    """Tokens per second; None where a whole answer is not counted."""
    counts = [record.tokens for record in finished]
    if not seconds or None in counts:
        return None
    return sum(count for count in counts if count is not None) / seconds


def _goodput(
    finished: Sequence[RequestRecord], seconds: float | None, limits: Limits | None
) -> dict[str, Any] | None:
    """Answers per second within the limits; None where a limit cannot be checked."""
    if limits is None or not seconds:
        return None
    is_uncounted = any(record.tokens is None for record in finished)
    if is_uncounted and limits.tpot_ms is not None:
        return None
    good = sum(limits.are_kept_by(record) for record in finished)
    return {"limits": limits.given(), "requests_s": good / seconds}
