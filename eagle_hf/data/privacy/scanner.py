"""All rules over one text, and what takes the place of what they find."""

from collections.abc import Iterable

from eagle_hf.data.privacy.findings import Finding, Rule, merge_overlapping
from eagle_hf.data.privacy.names import RampartRule
from eagle_hf.data.privacy.rules.identity_numbers import IdentityNumberRule
from eagle_hf.data.privacy.rules.keys import KeyRule
from eagle_hf.data.privacy.rules.network import (
    find_emails,
    find_ip_addresses,
    find_mac_addresses,
    find_url_credentials,
)
from eagle_hf.data.privacy.rules.payment import PaymentRule
from eagle_hf.data.privacy.rules.phones import PhoneRule
from eagle_hf.data.privacy.rules.streets import find_street_addresses
from eagle_hf.data.privacy.settings import PrivacySettings

FEWEST_LETTERS = 20  # of a key; rules find nothing in fewer letters alone

# Spaces, hyphens and full-width characters that stand in numbers for those of ASCII. Each is one
# character for one, so that findings keep their places.
LOOKALIKES = {
    **dict.fromkeys((0xA0, 0x2007, 0x2009, 0x202F, 0x3000), " "),
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212), "-"),
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
}


class PrivacyScanner:
    """Finds personal data and secrets in texts.

    Args:
        settings: which phone regions and which model of names. Default: `PrivacySettings()`.

    Attributes:
        rules: each reads a text and gives what it finds.

    Raises:
        ValueError: a library that a rule needs is not installed.
    """

    def __init__(self, settings: PrivacySettings | None = None):
        settings = settings or PrivacySettings()
        self._settings = settings
        self.rules: list[Rule] = [
            find_emails,
            find_ip_addresses,
            find_mac_addresses,
            find_url_credentials,
            find_street_addresses,
            KeyRule(),
            PaymentRule(),
            IdentityNumberRule(),
            PhoneRule(settings.phone_regions),
        ]
        self._finds_only_forms = settings.names is None
        if settings.names is not None:
            self.rules.append(RampartRule())

    def __reduce__(self) -> tuple[type["PrivacyScanner"], tuple[PrivacySettings]]:
        """Pickled as its settings: libraries and sessions of a model belong to one process."""
        return PrivacyScanner, (self._settings,)

    def find(self, text: str) -> list[Finding]:
        """Find everything in a text.

        Args:
            text: any text.

        Returns:
            Findings in the order of the text, none of which overlaps another.
        """
        if self._finds_only_forms and len(text) < FEWEST_LETTERS and text.isalpha():
            return []
        plain = text if text.isascii() else text.translate(LOOKALIKES)
        findings: list[Finding] = []
        for rule in self.rules:
            findings.extend(rule(plain))
        return merge_overlapping(findings)


def placeholder(kind: str) -> str:
    """What takes the place of a value.

    Args:
        kind: one of `KINDS`.

    Returns:
        For example "[EMAIL]".
    """
    return f"[{kind.upper()}]"


def redact(text: str, findings: Iterable[Finding]) -> str:
    """Put placeholders in the place of findings.

    Args:
        text: the text that was scanned.
        findings: in its order, without overlaps.

    Returns:
        The text without their values.
    """
    pieces = []
    position = 0
    for finding in findings:
        pieces.append(text[position : finding.start])
        pieces.append(placeholder(finding.kind))
        position = finding.end
    pieces.append(text[position:])
    return "".join(pieces)
