"""Phone numbers: international forms by themselves, national forms with a word beside them."""

import re
from collections.abc import Iterator, Sequence

from eagle_hf.data.privacy.findings import Finding, has_word_beside
from eagle_hf.data.privacy.libraries import import_library

INTERNATIONAL_BEGINNING = re.compile(r"[+\uff0b]\s?\(?\d")
NATIONAL = re.compile(
    r"(?<![\w.,$/-])(?<![€£#])\+?(?:\(\d|\d)(?:[ ().\-/]{0,3}\d){6,14}(?![\w%$]|[€£]|[.,:/-]\d)",
    re.ASCII,
)
# Of the national forms only this one is nothing else: (415) 736-2298
NORTH_AMERICAN = re.compile(r"(?<![\w)])\([2-9]\d\d\) ?[2-9]\d\d[-. ]\d{4}(?![\w-])", re.ASCII)
# 415-736-2298 is a phone number beside words that explain no other number.
DASHED = re.compile(r"(?<![\w.-])[2-9]\d\d([-.])[2-9]\d\d\1\d{4}(?![\w-]|\.\d)", re.ASCII)
CALL_WORD = re.compile(
    r"\b(?:call|ring|text|reach|contact)\b|\b(?:my|new|his|her|our|work|home) (?:number|no\b|#)",
    re.IGNORECASE,
)
# 0917 918 2736 is one beside "number" too: other numbers do not begin with a zero.
TRUNK_ZERO = re.compile(
    r"(?<![\w.,/+-])0[1-9]\d{0,4}[ /-]{1,3}\d{2,8}(?:[ -]\d{2,4}){0,4}(?![\w-]|[.,]\d)", re.ASCII
)
NUMBER_WORD = re.compile(
    r"\bnumber\b|\bnummer\b|\bnum[eé]ro\b|\bnúmero\b|\bcontact\b|\bkontakt\b|\bcontacto\b",
    re.IGNORECASE,
)
ENOUGH_DIGITS = re.compile(r"\d(?:[ ().\-/]{0,3}\d){6}")
PHONE_WORD = re.compile(
    # English
    r"\bphones?\b|telephone|\btel\b|\btel[.:]|\bmobile\b|\bcell(?:phone)?\b|whatsapp|\bfax\b|"
    r"\bsms\b|\btext (?:me|us|him|her)\b|\b(?:call|ring|phone|dial|reach|contact) "
    r"(?:me|us|him|her|them|mum|mom|dad|my|our)\b|\bdial\b|\bhotline\b|\bring\b|"
    r"\bcall \w+ (?:at|on)\b|\bmy number\b|\bnumber is\b|\bcallback\b|\bvoicemail\b|"
    # German, Dutch, Scandinavian and Polish
    r"\btelefon|\bhandy(?:nummer)?\b|rufnummer|\bmobil\b|\bmobilnummer|telefoon|\bmobiel|"
    r"\bmobiltelefon|\bruf(?:en sie|t)? mich\b|\bring mig\b|\bbel me\b|\btelefonu\b|\bkomórk|"
    # French, Spanish, Portuguese and Italian
    r"téléphone|\btél\b|\bportable\b|\bappel(?:ez|le)[ -]moi\b|\bjoindre\b|teléfono|\bmóvil\b|"
    r"\bcelular\b|\bll[aá]m(?:a al|ame|ar|eme)\b|telefone|\btelemóvel|\bligue\b|\bcellulare\b|"
    r"\bchiam(?:ami|are)\b|"
    # Turkish, Russian, Indonesian, Hindi, Chinese, Japanese and Korean
    r"\bcep\b|телефон|моб\.|\bhp\b|telepon|nomor|फ़ोन|फोन|मोबाइल|电话|電話|手机|手機|携帯|전화|휴대폰|연락처",
    re.IGNORECASE,
)
# 2024-11-05, 05.11.2024 and 2019-2024
YEAR = r"[12]\d{3}"
DATE = re.compile(
    rf"{YEAR}[-./ ]\d{{1,2}}[-./ ]\d{{1,2}}\b|\d{{1,2}}[-./]\d{{1,2}}[-./]{YEAR}$|{YEAR}-{YEAR}$"
)


class PhoneRule:
    """Finds phone numbers.

    Args:
        regions: countries in whose national forms a number is tried, as two letters.
    """

    def __init__(self, regions: Sequence[str]):
        self._library = import_library("phonenumbers", "phonenumbers", "privacy")
        unknown = sorted(set(regions) - self._library.SUPPORTED_REGIONS)
        if unknown:
            raise ValueError(
                f"phonenumbers knows no region {', '.join(unknown)}; give ISO 3166 codes as 'DE'"
            )
        self._regions = tuple(regions)

    def __call__(self, text: str) -> Iterator[Finding]:
        """Find them in a text."""
        if not ENOUGH_DIGITS.search(text):
            return
        if INTERNATIONAL_BEGINNING.search(text):
            # By default it gives up behind 65,535 numbers that are none.
            for match in self._library.PhoneNumberMatcher(text, None, max_tries=len(text)):
                yield Finding("phone", match.start, match.end)
        for match in NORTH_AMERICAN.finditer(text):
            if self._is_number_of(match[0], "US"):
                yield Finding("phone", *match.span())
        yield from self._find_beside(DASHED, CALL_WORD, text)
        yield from self._find_beside(TRUNK_ZERO, NUMBER_WORD, text)
        yield from self._find_beside(NATIONAL, PHONE_WORD, text)

    def _find_beside(
        self, form: re.Pattern[str], word: re.Pattern[str], text: str
    ) -> Iterator[Finding]:
        """Numbers of a form that are valid in one of the regions, with a word beside them."""
        if not word.search(text):
            return
        for match in form.finditer(text):
            is_explained = has_word_beside(word, text, *match.span())
            if is_explained and not DATE.match(match[0]) and self._is_valid(match[0]):
                yield Finding("phone", *match.span())

    def _is_valid(self, number: str) -> bool:
        """Whether it is a number of some region, or an international one that begins with 00."""
        if number.startswith("00"):
            number = "+" + number[2:]
        if number.startswith("+"):
            return self._is_number_of(number, None)
        return any(self._is_number_of(number, region) for region in self._regions)

    def _is_number_of(self, number: str, region: str | None) -> bool:
        """Whether it is a valid number, read as it is written in a region."""
        try:
            parsed = self._library.parse(number, region)
        except self._library.NumberParseException:
            return False
        return self._library.is_valid_number(parsed)
