"""What servers say of their own speculation, as the statistics of a run."""

from collections.abc import Mapping
from typing import Any

from eagle_hf.data.answers.draft_counts import DraftCounts, counts_of, drafts_in_answer
from eagle_hf.decoding.stats import DecodingStats

NO_DRAFTS = {"draft_n": 0, "draft_n_accepted": 0}


def stats_between(before: DraftCounts, after: DraftCounts, rows: int) -> DecodingStats:
    """What a server did between two looks at its counters.

    Args:
        before, after: the looks.
        rows: requests in between.

    Returns:
        Its rounds; none where the counters fell, because the server began anew, and none of SGLang,
        which counts no drafts.
    """
    grown = after.since(before)
    if grown.drafted is None:
        return DecodingStats(rows=rows)
    if min(grown.rounds, grown.drafted, grown.accepted, *grown.by_position) < 0:
        return DecodingStats(rows=rows)
    return _stats(rows, grown)


def stats_of_response(payload: Mapping[str, Any]) -> DecodingStats | None:
    """What a chat completion says of its own speculation.

    Args:
        payload: the response.

    Returns:
        The rounds of its one row; None where it says nothing that can be read.
    """
    drafts = drafts_in_answer(payload)
    timings = payload.get("timings")
    tokens = timings.get("predicted_n") if isinstance(timings, Mapping) else None
    if drafts is None and tokens is not None:
        drafts = NO_DRAFTS  # llama.cpp says nothing of drafts in an answer that had none
    try:
        counts = counts_of(drafts, tokens)
        if drafts is None or counts is None:
            return None
        stats = _stats(1, counts)
        if "acceptance_histogram" in drafts:
            _add_sizes(stats, drafts)
    except (KeyError, TypeError, ValueError):
        return None
    return stats


def _add_sizes(stats: DecodingStats, drafts: Mapping[str, Any]) -> None:
    """Add what vLLM's object says of chains by their length."""
    stats.deepest = int(drafts["num_spec_tokens"])
    for size, counts in drafts.get("acceptance_histogram_by_draft_length", {}).items():
        stats.by_size += [[] for _ in range(int(size) + 1 - len(stats.by_size))]
        stats.by_size[int(size)] = list(counts)


def _stats(rows: int, counts: DraftCounts) -> DecodingStats:
    """Statistics from totals; acceptance by depth where it is known."""
    rounds = counts.rounds
    accepted = counts.accepted
    drafted = int(counts.drafted or 0)
    by_depth = counts.by_position
    if rounds < 0 or accepted < 0 or drafted < accepted:
        raise ValueError(f"{rounds} rounds, {accepted} of {drafted} drafts accepted")
    stats = DecodingStats(rows=rows, rounds=rounds, tokens=rounds + accepted, drafted=drafted)
    stats.accepted = list(by_depth)
    stats.trials = [rounds, *by_depth[:-1]] if by_depth else []
    stats.deepest = len(by_depth)
    if rows == 1 and rounds:
        stats.row_rounds = [rounds]
        stats.row_tokens = [rounds + accepted]
    return stats
