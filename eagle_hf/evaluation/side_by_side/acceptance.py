"""The acceptance of a row of metrics.json: tau two ways, alpha, vLLM's object, and the tree."""

import statistics
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.measuring.intervals import median_interval

TREE_NODES = 64  # of the tree in a row of metrics.json, the most visited


def acceptance_of(runs: Sequence[DecodingStats]) -> dict[str, Any] | None:
    """What was accepted of the drafts of several calls.

    Args:
        runs: one per call.

    Returns:
        tau_requests: the median of tau over requests, with its 95 % interval; None where the
        requests of a call were not told apart. tau_tokens: all tokens over all rounds. alpha by
        depth, given that the drafts above were accepted. vllm: see `vllm_object`. None where
        nothing was drafted.
    """
    total = sum(runs, DecodingStats(rows=0))
    if not total.drafted:
        return None
    return {
        "tau_requests": _tau_by_request(total),
        "tau_tokens": total.tau if total.rounds else None,
        "alpha": total.alpha,
        "vllm": vllm_object(total),
    }


def _tau_by_request(total: DecodingStats) -> dict[str, float] | None:
    """Median and 95 % interval of tau over requests."""
    taus = []
    for rounds, tokens in zip(total.row_rounds, total.row_tokens, strict=True):
        if rounds:
            taus.append(tokens / rounds)
    if not taus:
        return None
    low, high = median_interval(taus)
    return {"median": statistics.median(taus), "low": low, "high": high}


def vllm_object(total: DecodingStats) -> dict[str, Any]:
    """The fields of vLLM's `metrics.speculative_decoding`, over all requests together.

    vLLM drafts chains. Of trees, draft tokens are nodes, and `num_spec_tokens` is the depth.
    Rounds without drafts do not count. What is not known, as of a server that tells totals alone,
    is None.

    Args:
        total: what was counted.
    """
    by_length = {}
    for size, counts in enumerate(total.by_size):
        if size and counts:
            by_length[str(size)] = counts + [0] * (size + 1 - len(counts))
    histogram = _histogram(total)
    steps = total.rounds if histogram is None else sum(histogram)
    accepted = total.tokens - total.rounds
    if histogram is not None:
        accepted = sum(number * count for number, count in enumerate(histogram))
    return {
        "mean_acceptance_length": 1 + accepted / steps if steps else None,
        "draft_acceptance_rate": accepted / total.drafted,
        "acceptance_histogram": histogram,
        "acceptance_histogram_by_draft_length": by_length or None,
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": total.drafted,
        "num_spec_tokens": total.deepest or None,
    }


def _histogram(total: DecodingStats) -> list[int] | None:
    """Rounds by how many drafts they accepted, 0 to the depth; None where it is not known."""
    sums: list[int] = []
    for counts in total.by_size[1:]:
        sums = [ours + theirs for ours, theirs in zip_longest(sums, counts, fillvalue=0)]
    if not sums and total.accepted:
        at_least = [total.rounds, *total.accepted, 0]
        sums = [here - below for here, below in zip(at_least, at_least[1:], strict=False)]
    if not sums:
        return None
    return sums + [0] * (total.deepest + 1 - len(sums))


def tree_of(total: DecodingStats) -> list[dict[str, int]]:
    """The places of a tree that were on trial most often.

    Args:
        total: what was counted.

    Returns:
        For each place its parent (an index of this list, -1 for the root), depth from 1, rank among
        its siblings from 0, `visited`: how often it was on trial, that is in the tree while the
        walk reached its parent, and `accepted`: how often the walk went on to it. Parents precede
        their children, the likeliest first.
    """
    visits = sorted(total.nodes.items(), key=_rarity)[:TREE_NODES]
    paths = sorted((path for path, _ in visits), key=_place)
    index = {path: number for number, path in enumerate(paths)}
    tree = []
    for path in paths:
        above, _, rank = path.rpartition(".")
        visited, accepted = total.nodes[path]
        tree.append(
            {
                "parent": index[above] if above else -1,
                "depth": path.count(".") + 1,
                "rank": int(rank),
                "visited": visited,
                "accepted": accepted,
            }
        )
    return tree


def _rarity(node: tuple[str, list[int]]) -> tuple[int, int, list[int]]:
    """Orders places by trials; a parent, which has as many at least, precedes its children."""
    path, (visited, _) = node
    return -visited, path.count("."), _ranks(path)


def _place(path: str) -> tuple[int, list[int]]:
    """Orders places level by level, and by rank within one."""
    return path.count("."), _ranks(path)


def _ranks(path: str) -> list[int]:
    """A rank path as numbers."""
    return [int(rank) for rank in path.split(".")]
