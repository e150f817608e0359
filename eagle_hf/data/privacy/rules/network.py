"""E-mail, IP and MAC addresses, and URLs with credentials."""

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from eagle_hf.data.privacy.findings import Finding, has_word_beside

# Not every letter: Chinese and Japanese sentences run on without a space before the address.
LATIN = r"A-Za-z0-9_À-ɏ"
EMAIL = re.compile(
    # also o'neil@ and "jane roe"@
    rf"(?<![{LATIN}.+%-])(?:(?:[{LATIN}.+%-]|(?<=[{LATIN}])'(?=[{LATIN}])){{1,64}}"
    r"|\"[\w.+ -]{1,62}\")@"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+([A-Za-z]{2,24}|[А-Яа-я]{2,8})(?![A-Za-z0-9_@-])"
)
# jane (at) firm (dot) com
SPELT_AT = re.compile(r"[\[({<]\s?at\s?[\])}>]", re.IGNORECASE)
SPELT_EMAIL = re.compile(
    r"(?<!\w)[\w.+-]{1,64}\s?[\[({<]\s?at\s?[\])}>]\s?[\w-]+"
    r"(?:\s?(?:\.|[\[({<]\s?dot\s?[\])}>])\s?[\w-]+)+",
    re.IGNORECASE,
)
# RFC 2606 and 6761 keep these for examples: nobody's mail arrives there.
EXAMPLE_DOMAIN = re.compile(
    r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|example|test|invalid|localhost|local|internal)$",
    re.IGNORECASE,
)
# `icon@2x.png` is a file and `git@github.com:` the same address for everyone.
FILE_ENDINGS = ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json")
LONGEST_LOGIN = 80  # characters between :// and @
IN_URL = re.compile(r"://[^\s/@?#]*$")
SHARED_ACCOUNT = re.compile(r"git@[\w.-]+$", re.IGNORECASE)

# Here and below, the first character stands before the look at the one before it: a pattern that
# begins with a set of characters is searched for several times as fast.
IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?![\w-]|\.\d)", re.ASCII)
# Global unicast, 2000::/3. Other beginnings also spell C++ scopes and times of day.
IPV6 = re.compile(
    r"[23](?<![\w:.][23])[0-9a-f]{3}:(?:[0-9a-f]{0,4}:){1,6}[0-9a-f]{0,4}(?![\w:])",
    re.IGNORECASE | re.ASCII,
)
VERSION_WORD = re.compile(r"versi[oó]n|\brelease|\bfirmware\b|\b(?:up|down)grade", re.IGNORECASE)
RIGHT_BEFORE_A_VERSION = re.compile(
    r"(?:\bver\.?|\bv|\bbuild|\bdriver|\bkernel|\bpatch|\bsection|\bchapter|§|[=<>~^]=)\s*$",
    re.IGNORECASE,
)
# 2.7.2.2 is a version or a section much more often than an address.
SECTION_NUMBER = re.compile(r"\d\.\d\.\d\.\d")
# Name servers that everyone uses, and the address of examples.
COMMON_ADDRESSES = ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "1.2.3.4")

HEX = "[0-9A-Fa-f]"
MAC = re.compile(
    rf"{HEX}(?<![\w:.-]{HEX}){HEX}(?:([:-])(?:{HEX}{HEX}\1){{4}}{HEX}{HEX}"
    rf"|{HEX}{HEX}\.{HEX}{{4}}\.{HEX}{{4}})(?![\w:-]|\.\w)",
    re.ASCII,
)
HEX_PAIR = re.compile(HEX + HEX)
MULTICAST_BIT = 1  # of the first byte: the address of a group, not of a device

# Some services, such as Redis, have a password and no user name.
LOGIN_IN_URL = re.compile(r"(?<=://)([^\s:/@'\"<>]{0,64}):([^\s/@'\"<>]{1,128})(?=@[\w\[])")
TOKEN_IN_URL = re.compile(
    r"(?<=[?&#])(?:access_token|auth_token|api_?key|apikey|token|secret|client_secret|password|"
    r"passwd|pwd|sig|signature|x-amz-signature)=[^\s&#'\"<>]{6,}",
    re.IGNORECASE,
)
MADE_UP_LOGIN = re.compile(
    r"^(?:pass(?:word|wd)?|pw|pwd|secret|token|changeme|xxx+|\*+|\.+|your[\w-]*)$|[${}%\[\]]",
    re.IGNORECASE,
)


def find_emails(text: str) -> Iterator[Finding]:
    """Find e-mail addresses.

    Args:
        text: any text.

    Yields:
        Findings of the kind "email". Addresses of example domains are left alone.
    """
    if "@" in text:
        for match in EMAIL.finditer(text):
            address = match[0]
            is_file = match[1].lower() in FILE_ENDINGS
            is_shared = EXAMPLE_DOMAIN.search(address) or SHARED_ACCOUNT.match(address)
            is_login = IN_URL.search(text, max(0, match.start() - LONGEST_LOGIN), match.start())
            if not (is_file or is_shared or is_login):
                yield Finding("email", *match.span())
    if SPELT_AT.search(text):
        for match in SPELT_EMAIL.finditer(text):
            yield Finding("email", *match.span())


def find_ip_addresses(text: str) -> Iterator[Finding]:
    """Find public IP addresses.

    Args:
        text: any text.

    Yields:
        Findings of the kind "ip_address". Private, reserved and documentation ranges say nothing
        about a person and are left alone, as are well-known name servers and version numbers.
    """
    if text.count(".") < 3 and ":" not in text:
        return
    for match in IPV4.finditer(text):
        if _is_public(match[0]) and not _is_version(match, text):
            yield Finding("ip_address", *match.span())
    for match in IPV6.finditer(text):
        if _is_public(match[0]):
            yield Finding("ip_address", *match.span())


def find_mac_addresses(text: str) -> Iterator[Finding]:
    """Find MAC addresses of devices.

    Args:
        text: any text.

    Yields:
        Findings of the kind "mac_address". Group addresses and repeated bytes are left alone.
    """
    has_pairs = text.count(":") >= 5 or text.count("-") >= 5
    if not has_pairs and text.count(".") < 2:
        return
    for match in MAC.finditer(text):
        pairs = HEX_PAIR.findall(match[0])
        is_group = int(pairs[0], 16) & MULTICAST_BIT
        is_filler = len(set(pairs)) <= 2
        if not is_group and not is_filler:
            yield Finding("mac_address", *match.span())


def find_url_credentials(text: str) -> Iterator[Finding]:
    """Find user names with passwords, and tokens, in URLs.

    Args:
        text: any text.

    Yields:
        Findings of the kind "url_credentials"; they cover the credentials, not the whole URL.
    """
    if "://" not in text:
        return
    for match in LOGIN_IN_URL.finditer(text):
        if not MADE_UP_LOGIN.search(match[2]):
            yield Finding("url_credentials", *match.span())
    for match in TOKEN_IN_URL.finditer(text):
        value = match[0].partition("=")[2]
        if not MADE_UP_LOGIN.search(value):
            yield Finding("url_credentials", *match.span())


def _is_version(match: re.Match[str], text: str) -> bool:
    """Whether four numbers are a version or a section, by what stands beside them."""
    before = text[max(0, match.start() - 12) : match.start()]
    if RIGHT_BEFORE_A_VERSION.search(before):
        return True
    return has_word_beside(VERSION_WORD, text, *match.span())


def _is_public(address: str) -> bool:
    """Whether an IP address can be reached from everywhere, and is nobody's common example."""
    if address in COMMON_ADDRESSES or SECTION_NUMBER.fullmatch(address):
        return False
    try:
        parsed = IPv6Address(address) if ":" in address else IPv4Address(address)
    except AddressValueError:
        return False
    return parsed.is_global and not parsed.is_multicast
