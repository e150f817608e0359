"""The audit report: what was found, how often, what was done about it. It never holds a value."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from eagle_hf.data.manifest import library_versions
from eagle_hf.data.privacy.kinds import KINDS
from eagle_hf.data.privacy.settings import PrivacySettings

FORMAT = 1  # of the JSON file
SAMPLES = 3  # of each kind
SAMPLE_LENGTH = 32
ROWS_NAMED = 1000  # dropped ones; the report stays small whatever it counts
LIBRARIES = ("eagle_hf", "phonenumbers", "python-stdnum", "detect-secrets")


@dataclass
class KindCount:
    """What was found of one kind.

    Attributes:
        found: findings by where they stand: "prompt", "answer", "token ids", "id", "field name" or
            "other".
        samples: the first few, with every letter as `*` and every digit as `#`.
    """

    found: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

    def count(self, place: str, value: str) -> None:
        """Add a finding; of its value only a masked sample is kept."""
        self.found[place] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(mask(value))

    def add(self, other: "KindCount") -> None:
        """Add what another filter found of the kind."""
        self.found.update(other.found)
        self.samples = (self.samples + other.samples)[:SAMPLES]


@dataclass
class PrivacyReport:
    """What one filter did.

    `unchanged`, `redacted` and `dropped` add up to `rows`.

    Attributes:
        settings: of the filter.
        rows: that were filtered.
        unchanged: rows passed on as they came.
        redacted: rows passed on with placeholders.
        dropped: rows left out, by reason.
        dropped_rows: the numbers of the first 1000, counted from 0. An id may hold personal data
            itself.
        kinds: what was found, by kind.
    """

    settings: PrivacySettings
    rows: int = 0
    unchanged: int = 0
    redacted: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_rows: list[int] = field(default_factory=list)
    kinds: dict[str, KindCount] = field(default_factory=dict)

    def count_finding(self, kind: str, place: str, value: str) -> None:
        """Count a finding; of its value only a masked sample is kept.

        Args:
            kind: one of `KINDS`.
            place: where it stands, see `KindCount`.
            value: what stands in the text.
        """
        self.kinds.setdefault(kind, KindCount()).count(place, value)

    def count_unchanged(self) -> None:
        """Count a row that is passed on as it came."""
        self.rows += 1
        self.unchanged += 1

    def count_redacted(self) -> None:
        """Count a row that is passed on with placeholders."""
        self.rows += 1
        self.redacted += 1

    def count_drop(self, reason: str) -> None:
        """Count a row that is left out.

        Args:
            reason: without anything of the row's text.
        """
        self.dropped[reason] += 1
        if len(self.dropped_rows) < ROWS_NAMED:
            self.dropped_rows.append(self.rows)
        self.rows += 1

    def add(self, other: "PrivacyReport") -> None:
        """Add what another filter counted.

        Args:
            other: a report with the same settings. Its rows are numbered on behind those of this
                one.

        Raises:
            ValueError: it has other settings: the counts would mean different things.
        """
        if asdict(other.settings) != asdict(self.settings):
            raise ValueError(
                "two privacy reports have different settings; only reports of filters with the "
                "same settings can be added up"
            )
        for row in other.dropped_rows[: ROWS_NAMED - len(self.dropped_rows)]:
            self.dropped_rows.append(self.rows + row)
        self.rows += other.rows
        self.unchanged += other.unchanged
        self.redacted += other.redacted
        self.dropped.update(other.dropped)
        for kind, count in other.kinds.items():
            self.kinds.setdefault(kind, KindCount()).add(count)

    @classmethod
    def merge(cls, reports: Iterable["PrivacyReport"]) -> "PrivacyReport":
        """Add up the reports of filters that ran side by side.

        Args:
            reports: with the same settings, in the order of their rows. They are not changed.

        Returns:
            The report that one filter would have made of all rows.

        Raises:
            ValueError: there are none, or they have different settings.
        """
        merged = None
        for report in reports:
            if merged is None:
                merged = cls(report.settings)
            merged.add(report)
        if merged is None:
            raise ValueError("there are no privacy reports to merge; give at least one")
        return merged

    def as_json(self) -> dict[str, Any]:
        """The report as JSON holds it.

        Returns:
            Counts, actions and masked samples, with the versions of the libraries.
        """
        kinds = {}
        for kind in sorted(self.kinds):
            kinds[kind] = {
                "what": KINDS[kind],
                "action": self.settings.action_for(kind),
                "found": dict(self.kinds[kind].found),
                "samples": self.kinds[kind].samples,
            }
        return {
            "step": "privacy",
            "format": FORMAT,
            "rows": self.rows,
            "unchanged": self.unchanged,
            "redacted": self.redacted,
            "dropped": dict(self.dropped),
            "dropped_rows": self.dropped_rows,
            "kinds": kinds,
            "settings": asdict(self.settings),
            "versions": library_versions(LIBRARIES),
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Self:
        """Read a report from what `as_json` gave.

        Args:
            written: the JSON of a report.

        Returns:
            The report, to add others to it.

        Raises:
            ValueError: it is no report of this format.
        """
        found = (written.get("step"), written.get("format"))
        if found != ("privacy", FORMAT):
            raise ValueError(
                f"the report is of step and format {found}; ('privacy', {FORMAT}) is needed: "
                "filter again with this version"
            )
        report = cls(
            settings=PrivacySettings.read(written["settings"]),
            rows=written["rows"],
            unchanged=written["unchanged"],
            redacted=written["redacted"],
            dropped=Counter(written["dropped"]),
            dropped_rows=list(written["dropped_rows"]),
        )
        for kind, count in written["kinds"].items():
            report.kinds[kind] = KindCount(Counter(count["found"]), list(count["samples"]))
        return report

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a report from a file.

        Args:
            path: a file that `write` wrote.

        Returns:
            The report.

        Raises:
            ValueError: it is no report of this format.
        """
        return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))

    def write(self, path: str | Path) -> None:
        """Write the report as a JSON file, and as text for people into a .txt file beside it.

        Args:
            path: of the JSON file. Its folder is made where it does not exist.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".txt").write_text(f"{self}\n", encoding="utf-8")

    def __str__(self) -> str:
        """A few lines for a terminal."""
        lines = [
            f"{self.rows} rows: {self.unchanged} unchanged, {self.redacted} redacted, "
            f"{self.dropped.total()} dropped"
        ]
        for reason, count in self.dropped.most_common():
            lines.append(f"{count:>8} dropped: {reason}")
        for kind in sorted(self.kinds, key=self._total, reverse=True):
            samples = "  ".join(self.kinds[kind].samples)
            action = self.settings.action_for(kind)
            lines.append(f"{self._total(kind):>8} {kind} ({action}): {samples}")
        return "\n".join(lines)

    def _total(self, kind: str) -> int:
        """How often a kind was found."""
        return self.kinds[kind].found.total()


def mask(value: str) -> str:
    """The form of a value without its characters.

    Args:
        value: what was found.

    Returns:
        Letters as `*`, digits as `#`, line breaks as spaces, cut to `SAMPLE_LENGTH` characters.
    """
    masked = []
    for character in value[:SAMPLE_LENGTH]:
        if character.isdigit():
            masked.append("#")
        elif character.isspace():
            masked.append(" ")
        elif character.isascii() and not character.isalpha():
            masked.append(character)
        else:
            masked.append("*")
    ending = "..." if len(value) > SAMPLE_LENGTH else ""
    return "".join(masked) + ending
