"""IBANs, payment cards and Bitcoin addresses, by their check digits."""

import re
from collections.abc import Iterator
from typing import Any

from eagle_hf.data.optional import require
from eagle_hf.data.privacy.findings import Finding

IBAN = re.compile(
    r"[A-Z](?:(?<!\w[A-Z])|(?<=IBAN[A-Z]))[A-Z]\d{2}"
    r"(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?!\w)",
    re.ASCII,
)
CARD = re.compile(r"\d(?<![\w.]\d)(?<!\d-\d)(?:[ -]?\d){13,18}(?!\w|-\w|\.\d)", re.ASCII)
# First digits and lengths of Visa, Mastercard, Amex, Discover, JCB, Diners Club and UnionPay
CARD_NETWORK = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|62\d{14}"
)
BITCOIN = re.compile(
    r"[13b](?<!\w[13b])(?:[1-9A-HJ-NP-Za-km-z]{25,34}|c1[a-z0-9]{25,62})(?!\w)", re.ASCII
)


class PaymentRule:
    """Finds IBANs, payment cards and Bitcoin addresses."""

    def __init__(self) -> None:
        self._iban = _stdnum("iban")
        self._luhn = _stdnum("luhn")
        self._bitcoin = _stdnum("bitcoin")

    def __call__(self, text: str) -> Iterator[Finding]:
        """Find them in a text."""
        for match in IBAN.finditer(text):
            end = self._iban_end(match[0])
            if end:
                yield Finding("iban", match.start(), match.start() + end)
        for match in CARD.finditer(text):
            if self._is_card(match[0]):
                yield Finding("payment_card", *match.span())
        for match in BITCOIN.finditer(text):
            if self._bitcoin.is_valid(match[0]):
                yield Finding("bitcoin_address", *match.span())

    def _iban_end(self, candidate: str) -> int:
        """Where a valid IBAN at the start of `candidate` ends; 0 where there is none.

        In "GB29 NWBK 6016 1331 9268 19 PLS" the last word belongs to the sentence.
        """
        while candidate:
            # Its checks by country refuse banks that are missing in its lists.
            if self._iban.is_valid(candidate, check_country=False):
                return len(candidate)
            candidate = candidate.rpartition(" ")[0]
        return 0

    def _is_card(self, candidate: str) -> bool:
        """Whether a number has a card network's first digits, its length and check digit."""
        digits = re.sub(r"\D", "", candidate)
        is_filler = len(set(digits)) <= 2
        is_network = CARD_NETWORK.fullmatch(digits) is not None
        return is_network and not is_filler and self._luhn.is_valid(digits)


def _stdnum(module: str) -> Any:
    """What checks the digits of one kind of numbers."""
    purpose = "finding payment cards and accounts"
    return require(f"stdnum.{module}", "python-stdnum", purpose, "privacy")
