"""API keys, web tokens and private keys: detect-secrets' patterns and those that it misses."""

import re
from collections.abc import Iterator

from eagle_hf.data.optional import require
from eagle_hf.data.privacy.findings import Finding, holds_any

# Every key is a part of such a run; most texts have none with letters and digits.
SHORTEST_RUN = 20
LONG_RUN = re.compile(rf"[\w\-./+=:~]{{{SHORTEST_RUN},}}")

# detect-secrets' detectors whose patterns are told by their form. Its entropy and keyword detectors
# and Artifactory's take ordinary code for secrets. Those of npm and OpenAI take quadratic time on
# long lines; their keys stand below, with private keys and JSON web tokens.
DETECTORS = (
    ("aws", "AWSKeyDetector"),
    ("azure_storage_key", "AzureStorageKeyDetector"),
    ("discord", "DiscordBotTokenDetector"),
    ("github_token", "GitHubTokenDetector"),
    ("gitlab_token", "GitLabTokenDetector"),
    ("mailchimp", "MailchimpDetector"),
    ("pypi_token", "PypiTokenDetector"),
    ("sendgrid", "SendGridDetector"),
    ("slack", "SlackDetector"),
    ("square_oauth", "SquareOAuthDetector"),
    ("stripe", "StripeDetector"),
    ("telegram_token", "TelegramBotTokenDetector"),
    ("twilio", "TwilioKeyDetector"),
)

# Keys with a prefix of their own, by who gives them out.
PREFIXED_KEYS = (
    r"sk-(?:proj|svcacct|admin|ant-\w+|or-v1|lf)-[\w-]{20,}",  # OpenAI, Anthropic, OpenRouter
    r"sk-[\w-]{0,60}T3BlbkFJ[\w-]{20,}",  # ... with its mark in the middle
    r"sk-[A-Za-z0-9]{32,}",  # OpenAI before 2024, DeepSeek, Moonshot
    r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
    r"AIza[\w-]{35}|GOCSPX-[\w-]{24,}|ya29\.[\w-]{20,}",  # Google
    r"github_pat_\w{60,}",
    r"npm_[A-Za-z0-9]{36}|_authToken=[\w-]{36}",
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}",  # Stripe
    r"xox[a-z]-[\w-]{20,}|xapp-\d-[\w-]{20,}",  # Slack
    r"dckr_pat_[\w-]{20,}",  # Docker
    r"do[opr]_v1_[a-f0-9]{64}",  # DigitalOcean
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",  # Shopify
    r"gsk_[A-Za-z0-9]{40,}",  # Groq
    r"r8_[A-Za-z0-9]{36,}",  # Replicate
    r"nvapi-[\w-]{40,}",  # NVIDIA
    r"xai-[A-Za-z0-9]{40,}",
    r"pplx-[A-Za-z0-9]{40,}",  # Perplexity
    r"tvly-[\w-]{28,}",  # Tavily
    r"lin_api_[A-Za-z0-9]{36,}",  # Linear
    r"dapi[a-f0-9]{32}",  # Databricks
    r"hv[sbr]\.[\w-]{24,}",  # HashiCorp Vault
    r"sbp_[a-f0-9]{40}",  # Supabase
    r"(?:ntn|secret)_[A-Za-z0-9]{43,}",  # Notion
    r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}",  # Airtable
    r"key-[a-f0-9]{32}",  # Mailgun
    r"figd_[\w-]{36,}",  # Figma
    r"glc_[A-Za-z0-9+/=]{32,}|glsa_[A-Za-z0-9]{32}_[a-f0-9]{8}",  # Grafana
    r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
    r"pypi-AgE[\w-]{50,}",
)
PREFIXED_KEY = re.compile(rf"(?<![\w-])(?:{'|'.join(PREFIXED_KEYS)})(?!\w)")

WEB_TOKEN = re.compile(r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{6,}\.[\w-]{10,}")

# A value without a prefix is a secret only where its name says so.
# Every name below holds one of these. Looking for them is fast, the pattern is not.
SECRET_NAMES = ("key", "secret", "token", "password", "passwd", "bearer")
NAMED_SECRET = re.compile(
    r"(?:api[_ -]?key|aws[\w .-]{0,20}key|secret(?:[_ -]?(?:access)?[_ -]?key)?|access[_ -]?key|"
    r"auth[_ -]?token|access[_ -]?token|bot[_ -]?token|client[_ -]?secret|passw(?:or)?d|\btoken|"
    r"bearer|account[_ -]?key)"
    r"(?:\s{1,3}is)?[\"'`]?\s{0,3}(?:=>|:=|[:=])?\s{0,3}[\"'`]?([\w+/.~-]{20,}={0,2})(?![\w(\[])",
    re.IGNORECASE,
)
HEX = re.compile(r"[0-9a-fA-F-]+")

HEADER = r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
FOOTER = r"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
# The header alone is no key. A key without a footer was cut, and goes on to the end of the text.
PRIVATE_KEY = re.compile(
    rf"{HEADER}(?=[\s\S]{{0,300}}?[A-Za-z0-9+/]{{32}})[\s\S]*?(?:{FOOTER}|\Z)"
    r"|PuTTY-User-Key-File-\d:[\s\S]*?(?:Private-(?:MAC|Hash): ?[0-9a-f]+|\Z)"
)

# Documentation writes YOUR_API_KEY and AKIA...EXAMPLE.
PLACEHOLDER = re.compile(
    r"example|your[-_]|placeholder|dummy|redacted|changeme|x{4}|0{8}|123456|abcdef|\.\.\.",
    re.IGNORECASE,
)
FEWEST_CHARACTERS = 9  # distinct ones in a random value of 20


class KeyRule:
    """Finds API keys, JSON web tokens and private keys."""

    def __init__(self) -> None:
        self._patterns = [PREFIXED_KEY]
        for module, name in DETECTORS:
            path = f"detect_secrets.plugins.{module}"
            plugin = require(path, "detect-secrets", "finding keys", "privacy")
            for pattern in getattr(plugin, name).denylist:
                bounded = rf"(?<![A-Za-z0-9])(?:{pattern.pattern})(?![A-Za-z0-9])"
                self._patterns.append(re.compile(bounded, pattern.flags))

    def __call__(self, text: str) -> Iterator[Finding]:
        """Find them in a text."""
        if "PRIVATE KEY" in text or "PuTTY-User-Key" in text:
            for match in PRIVATE_KEY.finditer(text):
                yield Finding("private_key", *match.span())
        # Counting letters between spaces is fast, the pattern is not.
        if max(map(len, text.split()), default=0) < SHORTEST_RUN:
            return
        runs = [run for run in LONG_RUN.finditer(text) if _is_mixed(run[0])]
        if not runs:
            return
        for run in runs:
            yield from self._find_in_run(text, *run.span())
        lowered = text.lower()
        if holds_any(lowered, SECRET_NAMES):
            for match in NAMED_SECRET.finditer(text):
                if _is_random(match[1]):
                    yield Finding("api_key", *match.span(1))

    def _find_in_run(self, text: str, start: int, end: int) -> Iterator[Finding]:
        """Keys that are told by their form, in characters without a space between them."""
        for match in WEB_TOKEN.finditer(text, start, end):
            yield Finding("access_token", *match.span())
        for pattern in self._patterns:
            for match in pattern.finditer(text, start, end):
                if not is_made_up(match[0]):
                    yield Finding("api_key", *match.span())


def is_made_up(value: str) -> bool:
    """Whether a key only shows what keys look like.

    Args:
        value: the key with its prefix.

    Returns:
        True for values such as `hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx`.
    """
    return PLACEHOLDER.search(value) is not None or len(set(value)) < FEWEST_CHARACTERS


def _is_mixed(run: str) -> bool:
    """Whether a run of characters has letters with digits, or letters of both cases."""
    has_letter = run.lower() != run.upper()
    has_digit = any(character.isdigit() for character in run)
    has_both_cases = run != run.lower() and run != run.upper()
    return has_both_cases or (has_letter and has_digit)


def _is_random(value: str) -> bool:
    """Whether a value looks drawn: upper and lower case and digits, or long hexadecimal."""
    if is_made_up(value):
        return False
    has_digit = any(character.isdigit() for character in value)
    if HEX.fullmatch(value):
        # Shorter ones are the hashes of files and commits.
        return has_digit and len(value) in (32, 64)
    is_lower = value.lower() == value
    is_upper = value.upper() == value
    return has_digit and not is_lower and not is_upper
