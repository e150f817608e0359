"""Phone numbers: international forms by themselves, national forms with a word beside them."""

import re
from collections.abc import Iterator, Sequence

from eagle_hf.data.optional import require
from eagle_hf.data.privacy.findings import Finding, Words

INTERNATIONAL_BEGINNING = re.compile(r"[+\uff0b]\s?\(?\d")
NATIONAL = re.compile(
    r"(?<![\w.,$/-])(?<![€£#])\+?(?:\(\d|\d)(?:[ ().\-/]{0,3}\d){6,14}(?![\w%$]|[€£]|[.,:/-]\d)",
    re.ASCII,
)
# Of the national forms only this one is nothing else: (415) 736-2298
NORTH_AMERICAN = re.compile(r"(?<![\w)])\([2-9]\d\d\) ?[2-9]\d\d[-. ]\d{4}(?![\w-])", re.ASCII)
# 415-736-2298 is a phone number beside words that explain no other number.
DASHED = re.compile(r"(?<![\w.-])[2-9]\d\d([-.])[2-9]\d\d\1\d{4}(?![\w-]|\.\d)", re.ASCII)
# 0917 918 2736 is one beside "number" too: other numbers do not begin with a zero.
TRUNK_ZERO = re.compile(
    r"(?<![\w.,/+-])0[1-9]\d{0,4}[ /-]{1,3}\d{2,8}(?:[ -]\d{2,4}){0,4}(?![\w-]|[.,]\d)", re.ASCII
)
ENOUGH_DIGITS = re.compile(r"\d(?:[ ().\-/]{0,3}\d){6}")

CALLED = ("me", "us", "him", "her", "them", "mum", "mom", "dad", "my", "our")
CALL_WORDS = Words(
    ("call", "ring", "text", "reach", "contact", "my number", "new number", "his number")
    + ("her number", "our number", "work number", "home number")
)
NUMBER_WORDS = Words(
    ("number", "nummer", "numero", "numéro", "número", "contact", "contacto", "kontakt", "nomor")
)
PHONE_WORDS = Words(
    # English
    ("phone", "phones", "telephone", "tel", "mobile", "cell", "cellphone", "whatsapp", "fax", "sms",
     "dial", "ring", "hotline", "my number", "contact number", "callback", "voicemail")
    + tuple(f"call {person}" for person in CALLED)
    + tuple(f"text {person}" for person in CALLED)
    + tuple(f"reach {person}" for person in CALLED)
    + tuple(f"contact {person}" for person in CALLED)
    # German, Dutch, Scandinavian and Polish
    + ("telefon", "telefonnummer", "telefonnr", "telefonisch", "handy", "handynummer", "rufnummer",
       "mobil", "mobilnummer", "mobiltelefon", "ruf mich", "ruft mich", "rufen sie mich",
       "telefoon", "telefoonnummer", "mobiel", "bel me", "ring mig", "tlf", "telefonu", "komórka",
       "komórki", "komórkowy")
    # French, Spanish, Portuguese and Italian
    + ("téléphone", "tél", "portable", "appelez-moi", "appelle-moi", "appelez moi", "appelle moi",
       "joindre", "joignable", "teléfono", "telefono", "móvil", "celular", "llama al", "llame al",
       "llamar", "llámame", "llamame", "llámeme", "telefone", "telemóvel", "ligue", "cellulare",
       "chiamami", "chiamare")
    # Turkish, Russian, Indonesian, Hindi, Chinese, Japanese and Korean
    + ("cep", "telefonum", "телефон", "моб.", "telepon", "फ़ोन", "फोन", "मोबाइल",
       "电话", "電話", "手机", "手機", "携帯", "전화", "휴대폰", "연락처")
)  # fmt: skip
# 2024-11-05, 05.11.2024, 2019-2024 and 4 829 173
YEAR = r"[12]\d{3}"
DATE_OR_COUNT = re.compile(
    rf"{YEAR}[-./ ]\d{{1,2}}[-./ ]\d{{1,2}}\b|\d{{1,2}}[-./]\d{{1,2}}[-./]{YEAR}$|{YEAR}-{YEAR}$"
    r"|\d(?: \d{3}){2,3}$"
)


class PhoneRule:
    """Finds phone numbers.

    Args:
        regions: countries in whose national forms a number is tried, as two letters.
    """

    def __init__(self, regions: Sequence[str]):
        self._library = require("phonenumbers", "phonenumbers", "finding phone numbers", "privacy")
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
        lowered = text.lower()
        if INTERNATIONAL_BEGINNING.search(text):
            # By default it gives up behind 65,535 numbers that are none.
            for match in self._library.PhoneNumberMatcher(text, None, max_tries=len(text)):
                yield Finding("phone", match.start, match.end)
        for match in NORTH_AMERICAN.finditer(text):
            if self._is_number_of(match[0], "US"):
                yield Finding("phone", *match.span())
        if CALL_WORDS.may_be_in(text, lowered):
            yield from self._find_beside(DASHED, CALL_WORDS, text)
        if NUMBER_WORDS.may_be_in(text, lowered):
            yield from self._find_beside(TRUNK_ZERO, NUMBER_WORDS, text)
        if PHONE_WORDS.may_be_in(text, lowered):
            yield from self._find_beside(NATIONAL, PHONE_WORDS, text)

    def _find_beside(self, form: re.Pattern[str], words: Words, text: str) -> Iterator[Finding]:
        """Numbers of a form that are valid in one of the regions, with a word beside them."""
        for match in form.finditer(text):
            is_explained = words.are_beside(text, *match.span())
            if is_explained and not DATE_OR_COUNT.match(match[0]) and self._is_valid(match[0]):
                yield Finding("phone", *match.span())

    def _is_valid(self, number: str) -> bool:
        """Whether it is a number of some region, or an international one."""
        if number.startswith("00"):
            number = "+" + number[2:]
        if number.startswith("+"):
            return self._is_possible(number)
        return any(self._is_number_of(number, region) for region in self._regions)

    def _is_possible(self, number: str) -> bool:
        """Whether an international number has a length that its country has.

        With a word beside it that is enough: tables of valid numbers lag behind new ones.
        """
        try:
            parsed = self._library.parse(number, None)
        except self._library.NumberParseException:
            return False
        return self._library.is_possible_number(parsed)

    def _is_number_of(self, number: str, region: str) -> bool:
        """Whether it is a valid number, read as it is written in a region."""
        try:
            parsed = self._library.parse(number, region)
        except self._library.NumberParseException:
            return False
        return self._library.is_valid_number(parsed)
