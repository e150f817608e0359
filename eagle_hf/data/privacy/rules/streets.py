"""Streets with a house number, in the forms of several languages.

Words such as "Drive", "Court" and "Way" have other meanings ("2 Google Drive"). They count only
with a flat, a town or a postcode behind them, or with a word such as "live at" before them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from eagle_hf.data.privacy.findings import Finding, has_word_beside, holds_any


def compile_bounded(pattern: str) -> re.Pattern[str]:
    """Compile a pattern in which spaces may repeat three times.

    Without a bound, two repetitions beside each other take quadratic time on long runs of spaces.

    Args:
        pattern: a regular expression with spaces as `\\s+` and `\\s*`.

    Returns:
        The compiled pattern.
    """
    return re.compile(pattern.replace(r"\s+", r"\s{1,3}").replace(r"\s*", r"\s{0,3}"))


CAPITALISED = r"(?:[A-ZÀ-ÞŁŚŻ][\w'’.-]{0,30}|\d{1,3}(?:st|nd|rd|th))"
LETTERS = "A-Za-zÀ-ÿĀ-ž"
HOUSE = r"\d{1,5}(?:[-–/]\d{1,4})?\s?[A-Da-d]?(?!\w|[.,:]\d|\s?%)"

FLAT = r"(?:,?\s+(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Room|#)\.?\s*#?\w{1,5})"
TOWN = r"(?:,\s*[A-Z][a-z][\w'.-]{0,30}(?:\s[A-Z][a-z][\w'.-]{0,30}){0,2})"
POSTCODE = (
    r"(?:,?\s+(?:[A-Z]{2,3}\s+)?(?:\d{5}(?:-\d{4})?|\d{6}|\d{4}|[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}"
    r"|[A-Z]\d[A-Z]\s?\d[A-Z]\d)\b)"
)
TAIL = rf"(?P<tail>{FLAT}?(?:{TOWN}(?:,?\s+[A-Z]{{2,3}}\b)?)?{POSTCODE}?)"
# 10115 Berlin, 75011 Paris, 1012 AB Amsterdam
EUROPEAN_TAIL = r"(?:,?\s+(?:[A-Z]{1,2}-)?\d{2,5}[ -]?\d{0,3}(?:\s?[A-Z]{2})?\s+[A-ZÀ-Þ][\w.-]+)?"

ADDRESS_WORD = re.compile(
    r"\baddress\b|\bliv(?:e|es|ed|ing)\b|\bship|\bdeliver|\bmoved? (?:to|from)\b|\bsend\b|\breside"
    r"|\bhome\b|\bhouse\b|\bmail it to\b|\bstay(?:ing|s)?\b|\bpick (?:me|us) up\b"
    r"|\bwork(?:s|ed|ing)? at\b|\bmeet\b|\boffice\b|\bvisit\b|\blocated\b|\bnew place\b",
    re.IGNORECASE,
)
YEAR = re.compile(r"(?:1[5-9]|20)\d\d")
BEFORE_A_YEAR = re.compile(
    r"(?:^|[.!?]\s|\b(?:in|the|of|since|from|until|till|by|and|or|after|before|late|early|circa)\s)"
    r"\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class StreetForm:
    """How streets are written in some languages.

    Args:
        words: in lower case. An address has at least one of them; looking for them is fast, the
            pattern is not.
        pattern: a regular expression.
    """

    words: tuple[str, ...]
    pattern: str


FORMS = (
    # German, Dutch and Scandinavian: Lindenstraße 14
    StreetForm(
        ("aße ", "asse ", "tr. ", "weg ", "allee ", "platz ", "ring ", "damm ", "ufer ", "straat ",
         "laan ", "plein ", "gracht ", "kade ", "dijk ", "singel ", "wal ", "gata", "vägen ",
         "veien ", "gade ", "vej ", "katu ", "tie ", "burgemeester "),
        rf"(?<![{LETTERS}])(?:(?:Alte|Neue|Große|Kleine|Lange|Obere|Untere|Nieuwe|Oude|Nieuwezijds|Oudezijds)\s+)?"
        rf"(?:[A-ZÄÖÜÅØ][{LETTERS}]{{1,40}}(?:-[A-ZÄÖÜ][{LETTERS}]{{1,40}}){{0,3}}"
        r"(?:straße|strasse|str\.|weg|gasse|allee|platz|ring|damm|ufer|straat|laan|plein|gracht|"
        r"kade|dijk|singel|wal|gatan|vägen|veien|gata|gade|vej|katu|tie)"
        rf"|(?:{CAPITALISED}\s+){{1,2}}(?:Straße|Strasse|Str\.|Weg|Allee|Platz|Ring|Damm|Ufer|Gasse)"
        rf"|[A-ZÄÖÜ][{LETTERS}]{{1,40}}(?:-[A-ZÄÖÜ][{LETTERS}]{{1,40}}){{0,3}}"
        r"-(?:Straße|Strasse|Str\.|Weg|Allee|Platz|Ring|Damm|Ufer|Gasse)"
        rf"|(?:Laan|Plein|Weg|Straat|Burgemeester)\s+(?:van\s+)?(?:de[nr]?\s+)?{CAPITALISED})"
        rf"\s+{HOUSE}{EUROPEAN_TAIL}",
    ),
    # German without such a word: Am Markt 3, 99084 Erfurt
    StreetForm(
        ("am ", "an der ", "im ", "unter den ", "auf der ", "zum "),
        rf"(?<![{LETTERS}])(?:Am|An der|Im|Unter den|Auf der|Zum)\s+(?:{CAPITALISED}\s+){{1,2}}"
        rf"{HOUSE},\s+\d{{5}}\s+[A-ZÄÖÜ][\w.-]+",
    ),
    # French: 12 rue de la République
    StreetForm(
        ("rue ", "avenue ", "av. ", "boulevard ", "bd ", "place ", "allée ", "impasse ", "chemin ",
         "quai ", "route ", "cours ", "square "),
        r"(?<![\w.,/-])\d{1,4}(?:\s?(?:bis|ter|quater|[A-D]))?,?\s+"
        r"(?:[Rr]ue|[Aa]venue|[Aa]v\.|[Bb]oulevard|[Bb]d|[Pp]lace|[Aa]llée|[Ii]mpasse|[Cc]hemin|"
        r"[Qq]uai|[Rr]oute|[Cc]ours|[Ss]quare)\s+"
        r"(?:d[eu]s?\s+|l[ae]s?\s+|d['’]|l['’]|de\s+l[a'’]\s?)*"
        rf"{CAPITALISED}(?:[\s-]{CAPITALISED}){{0,3}}{EUROPEAN_TAIL}",
    ),
    # Spanish, Portuguese, Italian, Polish and Romanian: Rua das Flores, 310
    StreetForm(
        ("calle", "c/", "avenida", "avda", "av.", "paseo", "pº", "plaza", "carre", "camino",
         "calzada", "rua", "r.", "travessa", "praça", "alameda", "estrada", "largo", "via",
         "piazza", "corso", "vicolo", "ul.", "al.", "pl.", "ulica", "str.", "strada", "bulevardul"),
        r"(?<!\w)(?:[Cc]alle|C/|[Aa]venida|Avda\.?|Av\.|Paseo|Pº|Plaza|Carrer|Camino|Carrera|"
        r"Calzada|[Rr]ua|R\.|[Tt]ravessa|[Pp]raça|Alameda|Estrada|Largo|"
        # English sentences have a "via" too, but no "in via".
        r"Via|(?<=[Ii]n )via|[Vv]iale|[Pp]iazza|[Pp]iazzale|Corso|[Vv]icolo|"
        r"ul\.|al\.|pl\.|[Uu]lica|Str\.|Strada|Bulevardul)\s*"
        r"(?:d[aeo]s?\s+|de(?:i|gli|lle|lla|l)\s+|dell['’]\s?|de\s+l[ao]s?\s+)*"
        rf"{CAPITALISED}(?:\s+(?:d[aeo]s?|del|della|y|e)?\s*{CAPITALISED}){{0,3}},?\s+"
        rf"(?:n[º°.o]*\s*|nr\.?\s*|#\s*)?{HOUSE}{EUROPEAN_TAIL}",
    ),
    # Turkish: Atatürk Caddesi No: 42
    StreetForm(
        ("cad", "sok", "bulvarı"),
        rf"(?<!\w)(?:{CAPITALISED}\s+){{1,3}}(?:Caddesi|Cad\.|Sokak|Sok\.|Sokağı|Bulvarı)\s*,?\s*"
        r"(?:[Nn]o:?\s*)?\d{1,4}",
    ),
    # Russian: ул. Ленина, 15
    StreetForm(
        ("ул", "просп", "пр.", "пер."),
        r"(?:ул\.|улица|просп?\.|проспект|пр\.|пер\.)\s+[А-ЯЁ][\w-]+(?:\s[А-ЯЁ][\w-]+)?,?\s+"
        r"(?:д\.\s*)?\d{1,4}",
    ),
    # Chinese: 南京西路1038号
    StreetForm(
        ("号", "號"),
        r"[\u4e00-\u9fff]{2,20}(?:路|街|大道|巷|弄|胡同)\s?\d{1,5}(?:弄\d+)?[号號]"
        r"(?:[\u4e00-\u9fff\d]{0,12}室)?",
    ),
    # Japanese: 東京都渋谷区神南1-12-10
    StreetForm(
        ("都", "道", "府", "県", "市", "区"),
        r"[\u4e00-\u9fff]{1,4}[都道府県市区][\u4e00-\u9fff\u3040-\u30ff]{1,12}\d{1,3}"
        r"(?:丁目|[-−－])\d{1,3}(?:(?:番地?|[-−－])\d{1,4}号?)?",
    ),
    # Post office boxes
    StreetForm(
        ("box ", "postfach "),
        r"\bP\.?\s?O\.?\s+B(?:ox|OX)\s+\d{1,6}|\bPostfach\s+\d[\d ]{1,8}\d",
    ),
)  # fmt: skip
# A number before a capital letter, where an English address may begin.
ENGLISH_BEGINNING = re.compile(
    r"\d(?<![\w.,/-]\d)(?=\d{0,4}[A-Za-z]?(?:-\d{1,4})?\s{1,3}[A-ZÀ-ÞŁŚŻ\d])"
)
FLAT_BEFORE = re.compile(
    r"(?<![\w.,/-])(?:Flat|Apt|Apartment|Unit|Suite)\.?\s{1,3}\w{1,5},\s{1,3}$"
)
LONGEST_FLAT = 25  # characters
ENGLISH = compile_bounded(
    rf"(?P<house>\d{{1,5}}[A-Za-z]?(?:-\d{{1,4}})?)\s+"
    rf"(?P<side>(?:North|South|East|West|[NSEW]\.?)\s+)?(?:{CAPITALISED}\s+){{1,4}}?"
    r"(?:(?P<sure>Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Boulevard|Blvd|Crescent|Terrace|Parkway|"
    r"Pkwy|Grove|Gardens|Mews)"
    r"|(?:Drive|Dr|Court|Ct|Place|Pl|Way|Square|Sq|Plaza|Circle|Cir|Close|Row|Hill|Trail|Loop|Highway|"
    r"Hwy|Walk|Park))\b\.?" + TAIL
)
COMPILED_FORMS = [(form.words, compile_bounded(form.pattern)) for form in FORMS]
DIGIT = re.compile(r"\d")


def find_street_addresses(text: str) -> Iterator[Finding]:
    """Find streets with a house number, and the town and postcode behind them.

    Args:
        text: any text.

    Yields:
        Findings of the kind "street_address".
    """
    if not DIGIT.search(text):
        return
    yield from _find_english_addresses(text)
    lowered = text.lower()
    for words, pattern in COMPILED_FORMS:
        if holds_any(lowered, words):
            for match in pattern.finditer(text):
                yield Finding("street_address", *match.span())


def _find_english_addresses(text: str) -> Iterator[Finding]:
    """Addresses that begin with the number of a house or a flat."""
    for beginning in ENGLISH_BEGINNING.finditer(text):
        match = ENGLISH.match(text, beginning.start())
        if match is not None and _is_english_address(match, text):
            flat = FLAT_BEFORE.search(text, max(0, match.start() - LONGEST_FLAT), match.start())
            start = match.start() if flat is None else flat.start()
            yield Finding("street_address", start, match.end())


def _is_english_address(match: re.Match[str], text: str) -> bool:
    """Whether a number, capitalised words and "Street" or "Drive" are an address."""
    before = text[max(0, match.start() - 10) : match.start()]
    looks_like_year = YEAR.fullmatch(match["house"]) and BEFORE_A_YEAR.search(before)
    is_street = match["sure"] or match["side"]
    if is_street and not looks_like_year:
        return True
    return bool(match["tail"]) or has_word_beside(ADDRESS_WORD, text, *match.span())
