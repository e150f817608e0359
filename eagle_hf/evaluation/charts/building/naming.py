"""Names by which the series of a chart are told apart, and how many are drawn."""

from collections.abc import Iterable, Sequence

from eagle_hf.evaluation.charts.chart import Series
from eagle_hf.evaluation.charts.theme import MOST_SERIES


def names_apart(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A name for each key: its first part, and those of the others in which keys differ.

    Args:
        keys: parts of names, all equally long.

    Returns:
        The name of every key.
    """
    if not keys:
        return {}
    differing = [0]
    for part in range(1, len(keys[0])):
        known = {key[part] for key in keys if key[part]}
        if len(known) > 1:
            differing.append(part)
    names = _joined(keys, differing)
    if len(set(names.values())) < len(names):  # some lack what others have
        names = _joined(keys, range(len(keys[0])))
    return names


def _joined(keys: Sequence[tuple[str, ...]], parts: Iterable[int]) -> dict[tuple[str, ...], str]:
    """The known ones of some parts of every key, with commas."""
    wanted = list(parts)
    names: dict[tuple[str, ...], str] = {}
    for key in keys:
        names[key] = ", ".join(key[part] for part in wanted if key[part])
    return names


def drawn_series(series: Sequence[Series]) -> tuple[tuple[Series, ...], str]:
    """As many series as there are colours for, the plain ones first in grey.

    Returns:
        The series, and a sentence about those that are only in the table.
    """
    plain = [one for one in series if one.is_plain]
    others = [one for one in series if not one.is_plain]
    # A second plain one would have the same grey.
    others = plain[1:] + others
    left_out = others[MOST_SERIES:]
    kept = [*plain[:1]]
    for one in others[:MOST_SERIES]:
        kept.append(Series(one.name, one.points))
    said = ""
    if left_out:
        verb = "is" if len(left_out) == 1 else "are"
        said = f" {len(left_out)} more {verb} in the table."
    return tuple(kept), said
