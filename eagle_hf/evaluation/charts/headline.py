"""The few numbers at the top of a report: what someone sees who looks for half a minute."""

from collections.abc import Sequence
from dataclasses import dataclass

from eagle_hf.evaluation.charts.building.methods import Measured, first_setting, method_rows
from eagle_hf.evaluation.charts.building.serving import is_plain, served_runs
from eagle_hf.evaluation.charts.chart import show, show_interval
from eagle_hf.evaluation.charts.measured import ALL, PLAIN, MethodRow
from eagle_hf.evaluation.charts.sources import TRAINING, Sources

EXACT = "float32"  # in which lossless means identical
AS_ALONE = "answers as the target alone"


@dataclass(frozen=True)
class Figure:
    """A number at the top.

    Attributes:
        value: as text, with its unit.
        what: it is.
        detail: how sure, and of what.
    """

    value: str
    what: str
    detail: str


def headline(sources: Sources) -> list[Figure]:
    """The most important numbers that the files have.

    Args:
        sources: what was read.

    Returns:
        At most four.
    """
    figures = [*_of_methods(sources), *_of_serving(sources)]
    if not figures:
        figures = _of_training(sources)
    return figures[:4]


def _of_methods(sources: Sources) -> list[Figure]:
    """The fastest method of the first setting: its speed, its tau, and whether it is lossless."""
    rows = []
    for source, row in first_setting(method_rows(sources)):
        is_drafting = row.category == ALL and row.method != PLAIN
        if is_drafting and row.speedup is not None and not source.is_simulated:
            rows.append(row)
    if not rows:
        return []
    best = max(rows, key=lambda row: row.speedup or 0.0)
    figures = [_speed(best)]
    if best.tau is not None:
        sure = "" if best.tau_interval is None else f"95 %: {show_interval(best.tau_interval)}"
        figures.append(Figure(show(best.tau), "tokens a round of the target", sure))
    if best.identical is not None:
        figures.append(_identical(best, method_rows(sources)))
    return figures


def _identical(best: MethodRow, rows: Sequence[Measured]) -> Figure:
    """The share of answers that are the target's; in float32 where that was measured too.

    In fewer bits two answers may part by rounding alone, which says nothing of a method.
    """
    rounded = best.settings[2]
    for _, row in rows:
        is_same = (row.method, row.category) == (best.method, best.category)
        is_exact = row.settings == (*best.settings[:2], EXACT)
        if rounded and rounded != EXACT and is_same and is_exact and row.identical is not None:
            detail = f"in {EXACT}; {best.identical:.0%} in {rounded}, which rounds"
            return Figure(f"{row.identical:.0%}", AS_ALONE, detail)
    detail = f"and {best.ties} differ by a tie" if best.ties else "token by token"
    if rounded:
        detail += f", in {rounded}"
    return Figure(f"{best.identical:.0%}", AS_ALONE, detail)


def _speed(row: MethodRow) -> Figure:
    """Speed over plain decoding; where the interval holds 1 it says that this is no difference."""
    detail = f"{row.method}, {row.setting}"
    what = "plain decoding's speed"
    interval = row.speedup_interval
    if interval is not None:
        detail = f"95 %: {show_interval(interval)}; {detail}"
        if interval[0] <= 1 <= interval[1]:
            what = "plain decoding's speed: no clear difference"
    return Figure(show(row.speedup, 2, "×"), what, detail)


def _of_serving(sources: Sources) -> list[Figure]:
    """Time per token at the least load, with and without drafts, of one file and engine."""
    by_place: dict[tuple, dict[bool, float]] = {}
    for source, run in served_runs(sources):
        median = run.median("tpot_ms")
        is_used = run.is_closed and run.category == ALL and not source.is_simulated
        if is_used and median is not None:
            place = (source.path, run.engine, run.load)
            by_place.setdefault(place, {}).setdefault(is_plain(run), median)
    compared = [place for place, found in by_place.items() if len(found) == 2]
    if not compared:
        return []
    place = min(compared, key=lambda entry: entry[2])
    _, engine, load = place
    found = by_place[place]
    detail = f"instead of {show(found[True], 1)} ms; {engine or 'a server'}, {load:g} at a time"
    return [Figure(show(found[False], 1, " ms"), "a token, served", detail)]


def _of_training(sources: Sources) -> list[Figure]:
    """The best evaluation."""
    every = [one for source in sources.of(TRAINING) for one in source.data]
    if not every:
        return []
    best = max(every, key=lambda one: one.tau)
    return [Figure(show(best.tau), "tokens a round, best evaluation", f"at step {best.step:,}")]
