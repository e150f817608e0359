"""Prompts and conversations without personal data: redacted, left out, or only reported.

A placeholder may stand in a question. It may not stand in an answer: the target said something
else there, and a head learns what the target says. Such a conversation is left out.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from eagle_hf.data.privacy.findings import Finding
from eagle_hf.data.privacy.kinds import DROP, REDACT, PrivacySettings
from eagle_hf.data.privacy.report import PrivacyReport
from eagle_hf.data.privacy.scanner import PrivacyScanner, redact
from eagle_hf.data.rows import Conversation, Prompt

PROMPT = "prompt"
ANSWER = "answer"
ID = "id"
OTHER = "other"

# Columns whose text the target reads. Whatever else a row has is filtered too, as "other".
PROMPT_COLUMNS = ("turns", "system", "tools", "chat_template_kwargs")
# What says how a message is to be read, not what it says.
STRUCTURE = ("role", "type")
UNREADABLE = "no turns or messages in it"
EMBEDDED = "data:"  # a file inside a URL: megabytes of base64


class PrivacyFilter:
    """Filters rows one by one, and counts what it found in them.

    Args:
        settings: what is done about each kind. Default: everything that rules find is redacted.

    Attributes:
        report: of the rows so far.

    Raises:
        ValueError: a library that a rule needs is not installed.
    """

    def __init__(self, settings: PrivacySettings | None = None):
        self.settings = settings or PrivacySettings()
        self.report = PrivacyReport(self.settings)
        self._scanner = PrivacyScanner(self.settings)

    def filter_prompt(self, prompt: Prompt) -> Prompt | None:
        """Filter one prompt.

        Args:
            prompt: any prompt; it is not changed.

        Returns:
            The prompt itself where nothing is redacted, a redacted copy, or None where it is left
            out.
        """
        row = cast("dict[str, Any]", prompt)
        return cast("Prompt | None", self._filter(row, _holds_turns(row)))

    def filter_conversation(self, conversation: Conversation) -> Conversation | None:
        """Filter one conversation.

        Args:
            conversation: any conversation; it is not changed.

        Returns:
            The conversation itself where nothing is redacted, a redacted copy, or None where it is
            left out: for its actions, for a redaction in an answer, or for a redaction in a row
            that has token ids, which would still be those of the value.
        """
        row = cast("dict[str, Any]", conversation)
        return cast("Conversation | None", self._filter(row, _holds_messages(row)))

    def _filter(self, row: dict[str, Any], is_readable: bool) -> dict[str, Any] | None:
        """The row, a redacted copy of it, or None."""
        # Without roles nobody knows which text is an answer.
        if not is_readable:
            self.report.count_drop(UNREADABLE)
            return None
        cleaner = _RowCleaner(self._scanner, self.settings, self.report)
        cleaned = cleaner.clean_row(row)
        reason = cleaner.reason_to_drop
        if reason is None and cleaner.redactions and _holds_token_ids(row):
            reason = "a redaction in a row with token ids"
        if reason is not None:
            self.report.count_drop(reason)
            return None
        if cleaner.redactions:
            self.report.count_redacted()
            return cleaned
        self.report.count_unchanged()
        return row


class _RowCleaner:
    """Walks through one row and collects what is to be done about it."""

    def __init__(self, scanner: PrivacyScanner, settings: PrivacySettings, report: PrivacyReport):
        self._scanner = scanner
        self._settings = settings
        self._report = report
        self.redactions = 0
        self.reason_to_drop: str | None = None

    def clean_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the row in which texts are redacted."""
        cleaned = {}
        for column, value in row.items():
            if column == "messages":
                cleaned[column] = [self._clean_message(message) for message in value]
            elif column == "id":
                cleaned[column] = self._clean(value, ID)
            else:
                place = PROMPT if column in PROMPT_COLUMNS else OTHER
                cleaned[column] = self._clean(value, place)
        return cleaned

    def _clean_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of one message."""
        return self._clean(message, ANSWER if message["role"] == "assistant" else PROMPT)

    def _clean(self, value: Any, place: str) -> Any:
        """A copy of any part of a row."""
        if isinstance(value, str):
            return self._clean_text(value, place)
        if isinstance(value, Mapping):
            copy = {}
            for name, part in value.items():
                copy[name] = part if name in STRUCTURE else self._clean(part, place)
            return copy
        if isinstance(value, list | tuple):
            return [self._clean(part, place) for part in value]
        return value

    def _clean_text(self, text: str, place: str) -> str:
        """The text with placeholders for what is to be redacted."""
        if text.startswith(EMBEDDED):
            return text
        to_redact = []
        for finding in self._scanner.find(text):
            self._report.count_finding(finding.kind, place, text[finding.start : finding.end])
            action = self._settings.action_for(finding.kind)
            if action == DROP:
                self._drop(f"{finding.kind} in the {place}")
            elif action == REDACT:
                self._note_redaction(finding, place)
                to_redact.append(finding)
        return redact(text, to_redact) if to_redact else text

    def _note_redaction(self, finding: Finding, place: str) -> None:
        """Count a redaction; where none may be, the row is left out."""
        self.redactions += 1
        if place == ANSWER:
            self._drop(f"a redaction in the answer ({finding.kind})")
        elif place == ID:
            # A placeholder would give several rows one id.
            self._drop(f"a redaction in the id ({finding.kind})")

    def _drop(self, reason: str) -> None:
        """Leave the row out; the first reason counts."""
        if self.reason_to_drop is None:
            self.reason_to_drop = reason


def filter_prompts(
    prompts: Iterable[Prompt], settings: PrivacySettings | None = None
) -> tuple[list[Prompt], PrivacyReport]:
    """Take personal data and secrets out of prompts, before the target answers them.

    Args:
        prompts: from `read_prompts`, for example.
        settings: what is done about each kind. Default: everything that rules find is redacted.

    Returns:
        `(prompts, report)`: those that are left, in order, and what was found.

    Raises:
        ValueError: a library that a rule needs is not installed, or no row is a prompt.
    """
    privacy = PrivacyFilter(settings)
    kept = []
    for prompt in prompts:
        filtered = privacy.filter_prompt(prompt)
        if filtered is not None:
            kept.append(filtered)
    _check_readable(privacy.report, "prompt with turns: read_prompts reads other columns")
    return kept, privacy.report


def filter_conversations(
    conversations: Iterable[Conversation], settings: PrivacySettings | None = None
) -> tuple[list[Conversation], PrivacyReport]:
    """Take personal data and secrets out of finished conversations.

    A redaction in an answer leaves the conversation out: its words are no longer the target's.

    Args:
        conversations: from `load_conversations`, for example.
        settings: what is done about each kind. Default: everything that rules find is redacted.

    Returns:
        `(conversations, report)`: those that are left, in order, and what was found.

    Raises:
        ValueError: a library that a rule needs is not installed, or no row is a conversation.
    """
    privacy = PrivacyFilter(settings)
    kept = []
    for conversation in conversations:
        filtered = privacy.filter_conversation(conversation)
        if filtered is not None:
            kept.append(filtered)
    _check_readable(privacy.report, "conversation with messages of role and content")
    return kept, privacy.report


def _check_readable(report: PrivacyReport, needed: str) -> None:
    """Refuse rows of which none could be read."""
    if report.rows and report.dropped[UNREADABLE] == report.rows:
        raise ValueError(f"none of {report.rows} rows is a {needed}")


def _holds_turns(row: object) -> bool:
    """Whether a row is a prompt."""
    if not isinstance(row, Mapping) or not isinstance(row.get("turns"), list | tuple):
        return False
    return all(isinstance(turn, str) for turn in row["turns"])


def _holds_messages(row: object) -> bool:
    """Whether a row is a conversation."""
    if not isinstance(row, Mapping) or not isinstance(row.get("messages"), list | tuple):
        return False
    return all(isinstance(one, Mapping) and "role" in one for one in row["messages"])


def _holds_token_ids(value: Any) -> bool:
    """Whether a row, or a part of it, has a list such as `prompt_ids`."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            is_list_of_ids = str(name).endswith("ids") and bool(part)
            if is_list_of_ids or _holds_token_ids(part):
                return True
    if isinstance(value, list | tuple):
        return any(map(_holds_token_ids, value))
    return False
