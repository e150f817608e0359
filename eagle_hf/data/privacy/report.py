"""The audit report: what was found, how often, what was done about it. It never holds a value."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eagle_hf.data.manifest import library_versions
from eagle_hf.data.privacy.kinds import KINDS, PrivacySettings

SAMPLES = 3  # of each kind
SAMPLE_LENGTH = 32
LIBRARIES = ("eagle_hf", "phonenumbers", "python-stdnum", "detect-secrets")


@dataclass
class KindCount:
    """What was found of one kind.

    Attributes:
        found: findings by where they stand: "prompt", "answer", "id" or "other".
        samples: the first few, with every letter as `*` and every digit as `#`.
    """

    found: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

    def count(self, place: str, value: str) -> None:
        """Add a finding; of its value only a masked sample is kept."""
        self.found[place] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(mask(value))


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
        dropped_rows: their numbers, counted from 0. An id may hold personal data itself.
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
            place: "prompt", "answer", "id" or "other".
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
        self.dropped_rows.append(self.rows)
        self.rows += 1

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
            "rows": self.rows,
            "unchanged": self.unchanged,
            "redacted": self.redacted,
            "dropped": dict(self.dropped),
            "dropped_rows": self.dropped_rows,
            "kinds": kinds,
            "settings": asdict(self.settings),
            "versions": library_versions(LIBRARIES),
        }

    def write(self, path: str | Path) -> None:
        """Write the report as a JSON file.

        Args:
            path: the file. Its folder is made where it does not exist.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")

    def __str__(self) -> str:
        """A few lines for a terminal."""
        dropped = len(self.dropped_rows)
        lines = [
            f"{self.rows} rows: {self.unchanged} unchanged, {self.redacted} redacted, "
            f"{dropped} dropped"
        ]
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
