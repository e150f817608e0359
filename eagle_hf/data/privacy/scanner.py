"""All rules over one text, and what takes the place of what they find."""

from collections.abc import Iterable

from eagle_hf.data.privacy.findings import Finding, Rule, merge_overlapping
from eagle_hf.data.privacy.kinds import PrivacySettings
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


class PrivacyScanner:
    """Finds personal data and secrets in texts.

    Args:
        settings: which phone regions and which model of names. Default: `PrivacySettings()`.

    Raises:
        ValueError: a library that a rule needs is not installed.
    """

    def __init__(self, settings: PrivacySettings | None = None):
        settings = settings or PrivacySettings()
        self._rules: list[Rule] = [
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
        if settings.names is not None:
            self._rules.append(RampartRule())

    def find(self, text: str) -> list[Finding]:
        """Find everything in a text.

        Args:
            text: any text.

        Returns:
            Findings in the order of the text, none of which overlaps another.
        """
        findings: list[Finding] = []
        for rule in self._rules:
            findings.extend(rule(text))
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
