"""What servers count of their own drafts: acceptance, as every engine tells it.

engine      for all requests, at /metrics               for one request, in its answer
vLLM        vllm:spec_decode_num_drafts_total, ...      metrics.speculative_decoding, with
                                                        --per-request-spec-decode-metrics
llama.cpp   llamacpp:spec_decode_num_drafts_total, ..., timings.draft_n, draft_n_accepted
            with --metrics
SGLang      sglang:spec_verify_calls_total, ...,        meta_info.spec_verify_ct,
            with --enable-metrics                       spec_num_correct_drafts, of /generate

A round is one verification: the target reads the drafts once. tau = 1 + accepted / rounds. The
first token of an answer comes from reading its prompt, and belongs to no round.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

# Counters of vLLM, which llama.cpp writes too, each with its own prefix.
PREFIXES = ("vllm:", "llamacpp:")
ROUNDS = "spec_decode_num_drafts_total"
DRAFTED = "spec_decode_num_draft_tokens_total"
ACCEPTED = "spec_decode_num_accepted_tokens_total"
BY_POSITION = "spec_decode_num_accepted_tokens_per_pos_total"
# SGLang's: tokens, requests, rounds.
SGLANG = (
    "sglang:generation_tokens_total",
    "sglang:num_requests_total",
    "sglang:spec_verify_calls_total",
)


@dataclass
class DraftCounts:
    """What was drafted, counted.

    Attributes:
        rounds: verifications.
        accepted: drafts that were kept.
        drafted: drafts; None where they are not counted.
        by_position: accepted drafts at each depth; empty where they are not counted.
    """

    rounds: int
    accepted: int
    drafted: float | None = None
    by_position: list[int] = field(default_factory=list)

    def __add__(self, other: "DraftCounts") -> "DraftCounts":
        """Both taken together."""
        drafted = None
        if self.drafted is not None and other.drafted is not None:
            drafted = self.drafted + other.drafted
        pairs = zip_longest(self.by_position, other.by_position, fillvalue=0)
        by_position = [ours + theirs for ours, theirs in pairs]
        rounds = self.rounds + other.rounds
        return DraftCounts(rounds, self.accepted + other.accepted, drafted, by_position)

    def since(self, before: "DraftCounts") -> "DraftCounts":
        """What was counted between two readings of one server; below 0 where it began anew."""
        drafted = None
        if self.drafted is not None:
            drafted = self.drafted - (before.drafted or 0)
        # A server that has drafted nothing yet may list no positions.
        pairs = zip_longest(self.by_position, before.by_position, fillvalue=0)
        by_position = [now - then for now, then in pairs]
        rounds = self.rounds - before.rounds
        return DraftCounts(rounds, self.accepted - before.accepted, drafted, by_position)

    def acceptance(self, source: str) -> dict[str, Any] | None:
        """The entry of serving.json; None where nothing was drafted.

        Args:
            source: who counted.
        """
        if self.rounds <= 0:
            return None
        reached = [self.rounds, *self.by_position[:-1]]
        alpha = []
        for accepted, before in zip(self.by_position, reached, strict=False):
            alpha.append(accepted / before if before else None)
        return {
            "tau": 1 + self.accepted / self.rounds,
            "alpha": alpha,
            "rounds": self.rounds,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "accepted_per_position": self.by_position,
            "source": source,
        }


def sum_counter(text: str, name: str) -> int | None:
    """One counter of a page of metrics.

    Args:
        text: in Prometheus' text format.
        name: of the counter. Its values for several ranks are added.

    Returns:
        The count since the server began; None where the page does not have it.
    """
    values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)", text, re.MULTILINE)
    return int(sum(float(value) for value in values)) if values else None


def read_counters(text: str) -> DraftCounts | None:
    """Read the page of an engine's metrics.

    Args:
        text: in Prometheus' text format.

    Returns:
        The counts since the server began; None where it counts no drafts, or where the page is
        none of metrics.
    """
    for prefix in PREFIXES:
        rounds = sum_counter(text, prefix + ROUNDS)
        if rounds is not None:
            accepted = sum_counter(text, prefix + ACCEPTED) or 0
            drafted = sum_counter(text, prefix + DRAFTED)
            return DraftCounts(rounds, accepted, drafted, _by_position(text, prefix))
    tokens, requests, rounds = (sum_counter(text, name) for name in SGLANG)
    if tokens is None or requests is None or rounds is None:
        return None
    return DraftCounts(rounds, tokens - requests - rounds)


def _by_position(text: str, prefix: str) -> list[int]:
    """Accepted drafts at each depth."""
    sums: dict[int, int] = {}
    labelled = rf'^{prefix}{BY_POSITION}\{{.*\bposition="(\d+)".*\}} (\S+)'
    for position, count in re.findall(labelled, text, re.MULTILINE):
        sums[int(position)] = sums.get(int(position), 0) + int(float(count))
    return [sums[position] for position in sorted(sums)]


async def ask_counters(session: "aiohttp.ClientSession", url: str) -> DraftCounts | None:
    """Ask a server for its counters.

    Args:
        session: from `open_session`.
        url: of the server, with or without /v1.

    Returns:
        The counts since the server began; None where it offers none.
    """
    import aiohttp

    try:
        async with session.get(f"{url.removesuffix('/v1')}/metrics") as response:
            text = await response.text()
            return read_counters(text) if response.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None


def drafts_in_answer(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an answer, or an event of a stream, says of its own drafts.

    Args:
        payload: its JSON object.

    Returns:
        The numbers under the server's own names, for `counts_of`; None where it says nothing.
    """
    metrics = payload.get("metrics")
    if isinstance(metrics, Mapping) and metrics.get("speculative_decoding"):
        return dict(metrics["speculative_decoding"])
    timings = payload.get("timings")
    if isinstance(timings, Mapping) and timings.get("draft_n") is not None:
        return {name: timings.get(name, 0) for name in ("draft_n", "draft_n_accepted")}
    facts = payload.get("meta_info")
    if isinstance(facts, Mapping) and facts.get("spec_verify_ct") is not None:
        return {name: facts.get(name) for name in ("spec_verify_ct", "spec_num_correct_drafts")}
    return None


def counts_of(drafts: Mapping[str, Any] | None, tokens: int | None) -> DraftCounts | None:
    """The counts of one answer.

    Args:
        drafts: from `drafts_in_answer`.
        tokens: of the answer, which llama.cpp and older SGLang are read with.

    Returns:
        The counts; None where the answer says nothing, or too little.
    """
    if drafts is None:
        return None
    if "acceptance_histogram" in drafts:
        return counts_of_histogram(drafts["acceptance_histogram"], drafts["num_draft_tokens"])
    if tokens is None:
        return None
    if "draft_n" in drafts:
        # Each round gives its accepted drafts and one token.
        accepted = drafts["draft_n_accepted"]
        return DraftCounts(tokens - 1 - accepted, accepted, drafts["draft_n"])
    rounds = drafts["spec_verify_ct"]
    accepted = drafts["spec_num_correct_drafts"]
    if accepted is None:
        accepted = max(0, tokens - 1 - rounds)
    return DraftCounts(rounds, accepted)


def counts_of_histogram(histogram: Sequence[int], drafted: float | None) -> DraftCounts:
    """The counts of a histogram of rounds by accepted drafts.

    Args:
        histogram: rounds that accepted 0, 1, 2... drafts.
        drafted: drafts.
    """
    by_position = [sum(histogram[depth:]) for depth in range(1, len(histogram))]
    return DraftCounts(sum(histogram), sum(by_position), drafted, by_position)
