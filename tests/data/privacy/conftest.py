"""A scanner with all rules. Without their libraries, the tests that ask for it are skipped."""

import pytest

from eagle_hf.data.privacy.scanner import PrivacyScanner


@pytest.fixture(scope="session")
def libraries() -> None:
    """Skips what needs the extra `privacy`."""
    for module in ("phonenumbers", "stdnum", "detect_secrets"):
        pytest.importorskip(module, reason=f"{module} is not installed")


@pytest.fixture(scope="session")
def scanner(libraries: None) -> PrivacyScanner:
    return PrivacyScanner()
