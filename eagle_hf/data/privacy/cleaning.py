"""One row, text by text: what is found in it, and what is to be done about the row."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from eagle_hf.data.privacy.findings import WORD_BEFORE, Finding
from eagle_hf.data.privacy.readable import TOO_DEEP, TOO_LONG, UnreadableRow
from eagle_hf.data.privacy.report import PrivacyReport
from eagle_hf.data.privacy.scanner import PrivacyScanner, redact
from eagle_hf.data.privacy.settings import DROP, REDACT, PrivacySettings
from eagle_hf.data.reading.roles import read_role

# Where a finding stands.
PROMPT = "prompt"
ANSWER = "answer"
TOKEN_IDS = "token ids"  # of an answer, decoded
ID = "id"
FIELD_NAME = "field name"
OTHER = "other"
# A placeholder there would not be the target's words, or would give several rows one id.
UNCHANGEABLE = (ANSWER, TOKEN_IDS, ID, FIELD_NAME)

# Columns whose text the target reads. Whatever else a row has is filtered too, as "other".
PROMPT_COLUMNS = ("turns", "system", "tools", "chat_template_kwargs")
# How a message or one of its parts is to be read, not what it says.
STRUCTURE = ("role", "type")
# Lists of token ids, no text.
TOKEN_COLUMNS = ("served_turns", "input_ids", "loss_mask", "prompt_ids", "response_ids")
# Names that only say that a text follows. Others, such as "phone", say what it is.
TEXT_NAMES = ("turns", "system", "messages", "content", "value", "text", "arguments")
TEXT_NAMES += ("reasoning", "reasoning_content", "thinking")

EMBEDDED_FILE = re.compile(r"data:[\w.+/-]{1,100}(?:;[\w=.-]{1,100}){0,4};base64,[\w+/=%\s-]*")
# Numbers of 7 to 40 digits may be personal data.
FEWEST = 10**6
MOST = 10**40
DEEPEST = 64  # values inside each other


class Where(NamedTuple):
    """Where in a row a value stands.

    Attributes:
        place: PROMPT, ANSWER and so on.
        name: of the field, if it explains the value; else empty.
        depth: how many values it stands inside.
    """

    place: str
    name: str = ""
    depth: int = 0


class RowCleaner:
    """Walks through one row and collects what is to be done about it.

    Args:
        scanner: finds personal data in texts.
        settings: what is done about each kind.
        report: counts the findings.

    Attributes:
        redacted_places: where there are placeholders in the copy.
        reason_to_drop: why the row has to be left out; None where it has not.
    """

    def __init__(self, scanner: PrivacyScanner, settings: PrivacySettings, report: PrivacyReport):
        self._scanner = scanner
        self._settings = settings
        self._report = report
        self._characters = 0
        self.redacted_places: set[str] = set()
        self.reason_to_drop: str | None = None

    def clean_prompt(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Copy a prompt with placeholders.

        Args:
            row: the prompt; it is not changed.

        Returns:
            The copy.

        Raises:
            UnreadableRow: it has more text, or is nested deeper, than a row may.
        """
        return {column: self._clean_column(column, value) for column, value in row.items()}

    def clean_conversation(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Copy a conversation with placeholders.

        Args:
            row: the conversation; it is not changed.

        Returns:
            The copy. Token ids are the row's own.

        Raises:
            UnreadableRow: it has more text, or is nested deeper, than a row may.
        """
        cleaned = {}
        for column, value in row.items():
            if column == "messages":
                cleaned[column] = [self._clean_message(message) for message in value]
            else:
                cleaned[column] = self._clean_column(column, value)
        return cleaned

    def read_answer_ids(self, text: str) -> None:
        """Look into an answer that was decoded from token ids.

        Args:
            text: of all its tokens; the messages may hold less.
        """
        self._clean_text(text, Where(TOKEN_IDS))

    def _clean_column(self, column: str, value: Any) -> Any:
        """A copy of what one column holds."""
        if column in TOKEN_COLUMNS:
            return value
        if column == "id":
            return self._clean(value, Where(ID))
        place = PROMPT if column in PROMPT_COLUMNS else OTHER
        return self._clean(value, Where(place, explaining_name(column)))

    def _clean_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of one message."""
        place = ANSWER if read_role(message) == "assistant" else PROMPT
        return self._clean(message, Where(place))

    def _clean(self, value: Any, where: Where) -> Any:
        """A copy of any part of a row."""
        if where.depth > DEEPEST:
            raise UnreadableRow(TOO_DEEP)
        if isinstance(value, str):
            return self._clean_text(value, where)
        if isinstance(value, Mapping):
            return self._clean_fields(value, where)
        if isinstance(value, list | tuple):
            inside = where._replace(depth=where.depth + 1)
            return [self._clean(part, inside) for part in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._clean_number(value, where)
        return value

    def _clean_fields(self, fields: Mapping[str, Any], where: Where) -> dict[str, Any]:
        """A copy of a mapping; a field's name may say what its value is."""
        copy = {}
        for name, value in fields.items():
            if not str(name).isidentifier():
                self._clean_text(str(name), where._replace(place=FIELD_NAME, name=""))
            if name in STRUCTURE and isinstance(value, str) and value.isidentifier():
                copy[name] = value
                continue
            inside = Where(where.place, explaining_name(name), where.depth + 1)
            copy[name] = self._clean(value, inside)
        return copy

    def _clean_number(self, number: float, where: Where) -> Any:
        """The number, or its placeholder: tables hold phone numbers as 5057384615.0."""
        is_whole = number == number // 1
        if not is_whole or not FEWEST <= number < MOST:
            return number
        digits = str(int(number))
        cleaned = self._clean_text(digits, where)
        return number if cleaned == digits else cleaned

    def _clean_text(self, text: str, where: Where) -> str:
        """The text with placeholders for what is to be redacted."""
        # A file inside a URL: megabytes that nobody wrote.
        if text.startswith("data:") and EMBEDDED_FILE.fullmatch(text):
            return text
        self._characters += len(text)
        if self._characters > self._settings.max_characters:
            raise UnreadableRow(TOO_LONG)
        to_redact = []
        for finding in self._find(text, where.name):
            value = text[finding.start : finding.end]
            self._report.count_finding(finding.kind, where.place, value)
            action = self._settings.action_for(finding.kind)
            if action == DROP:
                self._drop(f"{finding.kind} in the {where.place}")
            elif action == REDACT:
                self._note_redaction(finding.kind, where.place)
                to_redact.append(finding)
        return redact(text, to_redact) if to_redact else text

    def _find(self, text: str, name: str) -> list[Finding]:
        """The findings in a text that is read behind its name, as in "phone: 5057384615"."""
        if not name or text.isalpha():
            return self._scanner.find(text)
        beginning = f"{name}: "
        findings = []
        for kind, start, end in self._scanner.find(beginning + text):
            if end > len(beginning):
                start = max(0, start - len(beginning))
                findings.append(Finding(kind, start, end - len(beginning)))
        return findings

    def _note_redaction(self, kind: str, place: str) -> None:
        """Remember a redaction; where none may be, the row is left out."""
        self.redacted_places.add(place)
        if place in UNCHANGEABLE:
            self._drop(f"a redaction in the {place} ({kind})")

    def _drop(self, reason: str) -> None:
        """Leave the row out; the first reason counts."""
        if self.reason_to_drop is None:
            self.reason_to_drop = reason


def explaining_name(name: object) -> str:
    """What the name of a field says about its value.

    Args:
        name: of the field.

    Returns:
        The name with spaces for its underscores, its end if it is long; empty where it says
        nothing.
    """
    if name in TEXT_NAMES:
        return ""
    return str(name).replace("_", " ")[-WORD_BEFORE:]
