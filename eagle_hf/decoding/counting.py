"""What a round adds to a run's statistics."""

from collections.abc import Sequence

from eagle_hf.decoding.growth import Draft
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.decoding.verify import Verdict


def count_round(
    stats: DecodingStats, draft: Draft, verdicts: Sequence[Verdict], rows: Sequence[int]
) -> None:
    """Add a round to the statistics; a row that had ended before has none.

    Args:
        stats: of the run.
        draft: what the round drafted.
        verdicts: what was decided, one for each row of the batch.
        rows: which rows of the call these are.
    """
    tree = draft.tree
    stats.count_forwards(draft.widths)
    for place, verdict in enumerate(verdicts):
        emitted = verdict.emitted
        if not emitted:
            continue
        stats.count(verdict.trials, verdict.accepted, len(emitted))
        stats.count_row(rows[place], len(emitted))
        stats.count_draft(tree.size - 1, verdict.accepted, len(draft.widths))
        if tree.size > 1:
            tokens, parents = tree.lists
            walk = emitted[: verdict.accepted]
            stats.count_nodes(parents[place], tokens[place], walk)
