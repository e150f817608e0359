"""The report of a check: its findings in order of severity, and the table that is printed."""

import textwrap
from collections import Counter
from dataclasses import dataclass

from eagle_hf.hub.check.findings import LEVELS, Finding, engine_names
from eagle_hf.hub.engines import ENGINES

WIDTH = 120  # columns of the table
KEY_WIDTH = 32
EVERY_ENGINE = "every engine"


@dataclass(frozen=True)
class Report:
    """What was found about one head, most severe first.

    Args:
        source: The head's folder or hub id.
        dialect: The dialect it is written in; None for one that is not known.
        target: Name of the target it was checked against; None without one.
        findings: In order of severity.
    """

    source: str
    dialect: str | None
    target: str | None
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether an engine refuses the head or gets it wrong."""
        return any(finding.level == "error" for finding in self.findings)

    def text(self) -> str:
        """The report as a plain table.

        Returns:
            What happens, engine by engine and most severe first; then, once for each finding,
            what to do.
        """
        lines = [self._headline(), self._counts()]
        # Name as findings hold it -> heading with the versions behind it.
        headings = {EVERY_ENGINE: EVERY_ENGINE}
        for engine in ENGINES:
            versions = f" ({engine.versions})" if engine.versions else ""
            headings[engine.name] = f"{engine.name}{versions}"
        for name, heading in headings.items():
            lines += ["", heading, *self._rows_below(name)]
        lines += ["", "What to do"]
        # The numbers are those of the rows above.
        for number, finding in enumerate(self.findings, 1):
            lines.append(_remedy_row(number, finding))
        return _without_control_characters("\n".join(lines))

    def _headline(self) -> str:
        """Which head was checked, and against what."""
        dialect = "no dialect of EAGLE-3 that is known here"
        if self.dialect:
            dialect = f"dialect {self.dialect}"
        against = "without its target: --target compares vocabulary, RoPE and embeddings"
        if self.target:
            against = f"against the target {self.target}"
        return f"{self.source}: {dialect}, checked {against}"

    def _counts(self) -> str:
        """How many findings there are of each level."""
        counts = Counter(finding.level for finding in self.findings)
        parts = []
        for level in LEVELS:
            plural = "" if counts[level] == 1 else "s"
            parts.append(f"{counts[level]} {level}{plural}")
        return ", ".join(parts)

    def _rows_below(self, name: str) -> list[str]:
        """The rows below an engine's heading."""
        rows = []
        for number, finding in enumerate(self.findings, 1):
            if name in _headings_of(finding):
                rows.append(_row(number, finding))
        return rows or ["  nothing to report"]


def make_report(
    source: str, dialect: str | None, target: str | None, findings: list[Finding]
) -> Report:
    """The report; findings of one level stay in the order in which they were found."""

    def severity(finding: Finding) -> int:
        return LEVELS.index(finding.level)

    return Report(source, dialect, target, tuple(sorted(findings, key=severity)))


def _headings_of(finding: Finding) -> tuple[str, ...]:
    """The names below whose headings the finding stands."""
    concerns_all = set(finding.engines) == set(engine_names(ENGINES))
    return (EVERY_ENGINE,) if concerns_all else finding.engines


def _row(number: int, finding: Finding) -> str:
    """What happens, behind level and key."""
    key = finding.key
    # The end of a tensor's name tells more than its start.
    if len(key) > KEY_WIDTH:
        key = "..." + key[3 - KEY_WIDTH :]
    margin = f"  {finding.level:<8} {key:<{KEY_WIDTH}} "
    return _fill(margin, f"{finding.happens} [{number}]")


def _remedy_row(number: int, finding: Finding) -> str:
    """What to do, behind the finding's number."""
    source = f" ({finding.source})" if finding.source else ""
    return _fill(f"  [{number}] ", f"{finding.key}: {finding.remedy}{source}")


def _fill(margin: str, text: str) -> str:
    """The text beside its margin, broken into lines of equal indentation."""
    return textwrap.fill(text, WIDTH, initial_indent=margin, subsequent_indent=" " * len(margin))


def _without_control_characters(text: str) -> str:
    """The text with "?" in their place: anyone may have written the folder's names and values."""
    characters = []
    for character in text:
        is_safe = character.isprintable() or character == "\n"
        characters.append(character if is_safe else "?")
    return "".join(characters)
