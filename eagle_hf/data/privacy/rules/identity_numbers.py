"""National identity, tax and health numbers, passports and IMEIs.

A form that is told by its punctuation and check digits stands for itself. Where ordinary numbers
have the same form, a word such as "SSN" has to stand beside it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eagle_hf.data.optional import require
from eagle_hf.data.privacy.findings import Finding, Words


@dataclass(frozen=True)
class Form:
    """How an identity number is written.

    Args:
        kind: one of `KINDS`.
        pattern: a regular expression.
        module: of python-stdnum, which knows the check digits; None where there are none.
        words: of which one has to stand beside the number; none: nothing has to.
    """

    kind: str
    pattern: str
    module: str | None = None
    words: tuple[str, ...] = ()


# Forms that stand for themselves. The first one that fits is checked, so no two may fit.
DISTINCT_FORMS = (
    Form("us_itin", r"9\d\d-(?:5\d|6[0-5]|7\d|8[0-8]|9[0-24-9])-\d{4}", "us.itin"),
    Form("us_ssn", r"[0-8]\d\d-\d\d-\d{4}", "us.ssn"),
    Form("br_cpf", r"\d{3}\.\d{3}\.\d{3}-\d\d", "br.cpf"),
    Form("ch_ahv", r"756\.?\d{4}\.?\d{4}\.?\d\d", "ch.ssn"),
    Form("be_national_number", r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", "be.nn"),
    Form("cl_rut", r"\d{1,2}\.\d{3}\.\d{3}-[\dKk]", "cl.rut"),
    Form("ar_cuit", r"(?:2[0347]|3[034])-\d{8}-\d", "ar.cuit"),
    Form("kr_rrn", r"\d{6}-[1-8]\d{6}", "kr.rrn"),
    # Not by cn.ric, which refuses districts that are no more.
    Form(
        "cn_resident_id",
        r"[1-6]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dX]",
        "iso7064.mod_11_2",
    ),
    Form("fi_hetu", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", "fi.hetu"),
    Form("se_personal_number", r"(?:19|20)\d{6}-\d{4}", "se.personnummer"),
    Form("fr_nir", r"[12] ?\d\d ?[0-9]\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d", "fr.nir"),
    Form("es_dni", r"\d{8}-?[A-HJ-NP-TV-Z]", "es.dni"),
    Form("es_nie", r"[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]", "es.nie"),
    Form("in_pan", r"[A-Z]{3}[PCHABGJLFT][A-Z]\d{4}[A-Z]", "in_.pan"),
    Form(
        "it_codice_fiscale",
        r"[A-Z]{6}[0-9L-NP-V]{2}[A-EHLMPRST][0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{3}[A-Z]",
        "it.codicefiscale",
    ),
    Form("mx_curp", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", "mx.curp"),
    Form(
        "gb_nino", r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: \d\d){3} [A-D]"
    ),
)

# Forms that ordinary numbers have too.
NINE_DIGITS = r"\d{3}[ -]?\d{3}[ -]?\d{3}"
ELEVEN_DIGITS = r"\d{11}"
TWELVE_DIGITS = r"\d{4}[ -]?\d{4}[ -]?\d{4}"
NAMED_FORMS = (
    Form("us_ssn", r"\d{3} ?\d\d ?\d{4}", "us.ssn", ("ssn", "social security")),
    Form("ca_sin", NINE_DIGITS, "ca.sin", ("SIN", "social insurance", "assurance sociale")),
    Form("au_tfn", NINE_DIGITS, "au.tfn", ("tfn", "tax file")),
    Form(
        "gb_nino",
        r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]",
        None,
        ("national insurance", "nino", "NI"),
    ),
    Form("gb_nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", ("nhs",)),
    Form(
        "de_tax_id",
        r"\d\d ?\d{3} ?\d{3} ?\d{3}",
        "de.idnr",
        ("steuer-id", "steuerid", "steueridentifikationsnummer", "identifikationsnummer", "idnr")
        + ("steuer-idnr", "TIN", "tax id"),
    ),
    Form(
        "nl_bsn",
        r"\d{4}[ .]?\d\d[ .]?\d{3}|\d{9}",
        "nl.bsn",
        ("bsn", "burgerservicenummer", "sofinummer", "sofi-nummer"),
    ),
    Form(
        "be_national_number",
        ELEVEN_DIGITS,
        "be.nn",
        ("rijksregister", "rijksregisternummer", "registre national", "numéro national", "NRN"),
    ),
    Form("pl_pesel", ELEVEN_DIGITS, "pl.pesel", ("pesel", "peselu")),
    Form(
        "se_personal_number",
        r"\d{6}[-+]?\d{4}|(?:19|20)\d{10}",
        "se.personnummer",
        ("personnummer", "personnumret", "personal number", "personal identity number"),
    ),
    Form("dk_cpr", r"\d{6}[- ]?\d{4}", "dk.cpr", ("cpr",)),
    Form(
        "no_national_number",
        r"\d{6} ?\d{5}",
        "no.fodselsnummer",
        ("fødselsnummer", "fodselsnummer", "personnummer", "fnr"),
    ),
    Form("pt_nif", r"\d{3} ?\d{3} ?\d{3}", "pt.nif", ("nif", "contribuinte")),
    Form("br_cpf", ELEVEN_DIGITS, "br.cpf", ("cpf",)),
    Form("cl_rut", r"\d{7,8}-?[\dKk]", "cl.rut", ("RUT",)),
    Form("ar_cuit", ELEVEN_DIGITS, "ar.cuit", ("cuit", "cuil")),
    Form("in_aadhaar", TWELVE_DIGITS, "in_.aadhaar", ("aadhaar", "aadhar", "uidai", "आधार")),
    Form("jp_my_number", TWELVE_DIGITS, "jp.in_", ("my number", "マイナンバー", "個人番号")),
    Form("ro_cnp", r"[1-9]\d{12}", "ro.cnp", ("cnp", "cod numeric")),
    Form(
        "tr_identity_number",
        r"[1-9]\d{10}",
        "tr.tckimlik",
        ("kimlik", "tckn", "tc no", "t.c. no", "turkish id"),
    ),
    Form(
        "za_identity_number",
        r"\d{6} ?\d{4} ?\d{3}",
        "za.idnr",
        ("sa id", "rsa id", "south african id", "identity", "id number", "id no"),
    ),
    Form("imei", r"\d\d-?\d{6}-?\d{6}-?\d", "imei", ("imei",)),
    Form(
        "passport",
        r"(?=(?:[A-Z]*\d){3})(?:[A-Z0-9]{8,9}|[A-Z]{1,2} ?\d{6,7})",
        None,
        ("passport", "passeport", "reisepass", "reisepassnummer", "pasaporte", "passaporto")
        + ("passaporte", "paspoort", "паспорт", "护照"),
    ),
)

BEFORE = r"(?<![\w.,/-])"
# Only a place where a number can begin is tried with all the forms.
BEGINNING = re.compile(
    r"[A-Z\d](?<![\w.,/-][A-Z\d])(?:(?<=\d)|(?=[A-Z]{0,5} ?\d|[A-Z]{5}))", re.ASCII
)
BEHIND = r"(?![\w/]|[.,-]\d)"
# Without as many digits there is no number, and the forms need not be tried.
MAY_BE_DISTINCT = re.compile(r"\d(?:[ .-]?[\dA-Z]){6}", re.ASCII)
MAY_BEGIN_WITH_LETTERS = re.compile(r"\d(?<=[A-Z]{4}\d)\d", re.ASCII)
MAY_BE_NAMED = re.compile(r"\d(?:[ .\-A-Z]{0,2}\d){3}", re.ASCII)


class IdentityNumberRule:
    """Finds identity numbers."""

    def __init__(self) -> None:
        self._checks: dict[str, Callable[[str], bool]] = {}
        branches = []
        for form in DISTINCT_FORMS:
            self._remember_check(form)
            branches.append(f"(?P<{form.kind}>{form.pattern})")
        self._distinct = re.compile(f"(?:{'|'.join(branches)}){BEHIND}", re.ASCII)
        self._distinct_checks = {form.kind: form.module for form in DISTINCT_FORMS}
        self._named: list[tuple[Form, re.Pattern[str], Words]] = []
        for form in NAMED_FORMS:
            self._remember_check(form)
            pattern = re.compile(f"{BEFORE}(?:{form.pattern}){BEHIND}", re.ASCII)
            self._named.append((form, pattern, Words(form.words)))

    def __call__(self, text: str) -> Iterator[Finding]:
        """Find them in a text."""
        if MAY_BE_DISTINCT.search(text) or MAY_BEGIN_WITH_LETTERS.search(text):
            yield from self._find_distinct(text)
        if MAY_BE_NAMED.search(text):
            yield from self._find_named(text)

    def _find_distinct(self, text: str) -> Iterator[Finding]:
        """Numbers that stand for themselves."""
        position = 0
        for beginning in BEGINNING.finditer(text):
            match = self._distinct.match(text, beginning.start())
            if match is None or match.start() < position:
                continue
            position = match.end()
            kind = match.lastgroup
            assert kind is not None
            if self._is_valid(self._distinct_checks[kind], match[0]):
                yield Finding(kind, *match.span())

    def _find_named(self, text: str) -> Iterator[Finding]:
        """Numbers with the word that explains them beside them."""
        lowered = text.lower()
        for form, pattern, words in self._named:
            if not words.may_be_in(text, lowered):
                continue
            for match in pattern.finditer(text):
                is_explained = words.are_beside(text, *match.span())
                if is_explained and self._is_valid(form.module, match[0]):
                    yield Finding(form.kind, *match.span())

    def _is_valid(self, module: str | None, number: str) -> bool:
        """Whether the check digits are right; True where there are none."""
        return module is None or self._checks[module](number.replace(" ", ""))

    def _remember_check(self, form: Form) -> None:
        """Import what checks a form."""
        if form.module is not None:
            name = f"stdnum.{form.module}"
            library = require(name, "python-stdnum", "finding identity numbers", "privacy")
            self._checks[form.module] = library.is_valid
