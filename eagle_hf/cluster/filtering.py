"""Privacy on a cluster: rows are filtered unit by unit, and come out in their order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eagle_hf.cluster.stages import StageRun, Workers
from eagle_hf.data import PrivacyFilter, PrivacyReport, PrivacySettings
from eagle_hf.pipeline.rows import count_lines, read_rows, write_rows

UNIT_ROWS = 2000  # a second of work for the rules


@dataclass(frozen=True)
class FilterUnit:
    """Rows that one worker filters.

    Attributes:
        number: of the unit, from 0.
        rows: prompts or conversations.
    """

    number: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class FilteredUnit:
    """What is left of a unit.

    Attributes:
        number: of the unit.
        rows: that are left.
        report: what was found.
    """

    number: int
    rows: list[dict[str, Any]]
    report: PrivacyReport


@dataclass(frozen=True)
class OpenFilter:
    """Makes the stage that filters, on a worker.

    Attributes:
        settings: what is done about each kind.
        of_conversations: whether rows are conversations, or prompts.
        tokenizer: of the target, as in `PrivacyFilter`.
    """

    settings: PrivacySettings
    of_conversations: bool
    tokenizer: Any = None

    def __call__(self) -> "FilterStage":
        return FilterStage(self)


class FilterStage:
    """Filters units; a `Stage`.

    Args:
        opening: what is filtered, and how.

    Raises:
        ValueError: a library that a rule needs is not installed on the worker.
    """

    def __init__(self, opening: OpenFilter):
        self.opening = opening
        self._new_filter()  # refuses a missing library

    def _new_filter(self) -> PrivacyFilter:
        """A filter that has counted nothing yet."""
        return PrivacyFilter(self.opening.settings, self.opening.tokenizer)

    def __call__(self, unit: FilterUnit) -> FilteredUnit:
        """Filter a unit."""
        # Of its own, because a filter counts all its rows.
        privacy = self._new_filter()
        of_conversations = self.opening.of_conversations
        clean: Any = privacy.filter_conversation if of_conversations else privacy.filter_prompt
        rows: list[Any] = []
        for row in unit.rows:
            cleaned = clean(row)
            if cleaned is not None:
                rows.append(cleaned)
        return FilteredUnit(unit.number, rows, privacy.report)


def filter_file(
    ray: Any, open_stage: OpenFilter, workers: Workers, source: Path, into: Path
) -> PrivacyReport:
    """Filter a file of rows on a cluster.

    Args:
        ray: the module, connected.
        open_stage: makes the stage.
        workers: how many, and what each takes.
        source: JSON lines.
        into: gets the rows that are left, in order.

    Returns:
        What was found in all rows.

    Raises:
        ValueError: a library that a rule needs is not installed on a worker.
    """
    report = PrivacyReport(open_stage.settings)
    run = StageRun(ray, open_stage, workers, _units(source))
    progress = tqdm(total=count_lines(source), desc="privacy", unit="row")
    with progress:
        write_rows(into, _rows_of(in_order(run.results()), report, progress))
    return report


def in_order(units: Iterable[FilteredUnit]) -> Iterator[FilteredUnit]:
    """Put units that arrive in any order into theirs.

    Args:
        units: every number from 0 once.

    Yields:
        Each as soon as all before it have arrived.
    """
    waiting: dict[int, FilteredUnit] = {}
    following = 0
    for unit in units:
        waiting[unit.number] = unit
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _rows_of(
    units: Iterable[FilteredUnit], report: PrivacyReport, progress: Any
) -> Iterator[dict[str, Any]]:
    """The rows of all units, while their reports are added up."""
    for unit in units:
        report.add(unit.report)
        progress.update(unit.report.rows)
        yield from unit.rows


def _units(source: Path) -> Iterator[FilterUnit]:
    """The rows of a file, cut into units."""
    number = 0
    rows: list[dict[str, Any]] = []
    for row in read_rows(source):
        rows.append(row)
        if len(rows) == UNIT_ROWS:
            yield FilterUnit(number, rows)
            number += 1
            rows = []
    if rows:
        yield FilterUnit(number, rows)
