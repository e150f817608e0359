"""Prompts and conversations without personal data: redacted, left out, or only reported.

A placeholder may stand in a question. It may not stand in an answer: the target said something
else there, and a head learns what the target says. Nor may it stand in a question that the target
has read, where the row has its token ids: they are still those of the value. Such conversations
are left out. So prompts are filtered before they are answered.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

from eagle_hf.data.privacy.cleaning import PROMPT, TOKEN_COLUMNS, RowCleaner
from eagle_hf.data.privacy.readable import (
    UNKNOWN_TOKEN_IDS,
    UNREADABLE,
    UnreadableRow,
    answer_ids,
    check_conversation_row,
    check_prompt_row,
)
from eagle_hf.data.privacy.report import PrivacyReport
from eagle_hf.data.privacy.scanner import PrivacyScanner
from eagle_hf.data.privacy.settings import PrivacySettings
from eagle_hf.data.reading.roles import read_role
from eagle_hf.data.rows import Conversation, Prompt

SERVED_PROMPT = "a redaction in a prompt that was answered by token; filter prompts first"


class Decodes(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids."""
        ...


class PrivacyFilter:
    """Filters rows one by one, and counts what it found in them.

    A filter can be pickled, for a process that maps a data set. What each process counted is added
    up by `PrivacyReport.merge`.

    Args:
        settings: what is done about each kind. Default: everything that rules find is redacted.
        tokenizer: of the target. With it, the answers of rows with `served_turns` are also read
            from their token ids, which may hold more than the messages, such as what was thought.
            Default: the messages alone are read.

    Attributes:
        settings: as given.
        report: of the rows so far.

    Raises:
        ValueError: a library that a rule needs is not installed.
    """

    def __init__(self, settings: PrivacySettings | None = None, tokenizer: Decodes | None = None):
        self.settings = settings or PrivacySettings()
        self.report = PrivacyReport(self.settings)
        self._tokenizer = tokenizer
        self._scanner = PrivacyScanner(self.settings)

    def filter_prompt(self, prompt: Prompt) -> Prompt | None:
        """Filter one prompt.

        Args:
            prompt: any prompt; it is not changed.

        Returns:
            The prompt itself where nothing is redacted, a redacted copy, or None where it is left
            out.
        """
        try:
            check_prompt_row(prompt)
            cleaner = self._new_cleaner()
            cleaned = cleaner.clean_prompt(cast("dict[str, Any]", prompt))
            return cast("Prompt | None", self._decide(prompt, cleaned, cleaner))
        except UnreadableRow as unreadable:
            self.report.count_drop(str(unreadable))
            return None

    def filter_conversation(self, conversation: Conversation) -> Conversation | None:
        """Filter one conversation.

        Args:
            conversation: any conversation; it is not changed.

        Returns:
            The conversation itself where nothing is redacted, a redacted copy, or None where it is
            left out: for its actions, for a redaction in an answer, or for a redaction in a row
            that has token ids, which would still be those of the value.
        """
        try:
            check_conversation_row(conversation)
            row = cast("dict[str, Any]", conversation)
            cleaner = self._new_cleaner()
            cleaned = cleaner.clean_conversation(row)
            for text in self._texts_of_ids(row):
                cleaner.read_answer_ids(text)
            return cast("Conversation | None", self._decide(conversation, cleaned, cleaner))
        except UnreadableRow as unreadable:
            self.report.count_drop(str(unreadable))
            return None

    def stream_prompts(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        """Filter prompts while they are read; none is kept in memory.

        Args:
            prompts: from `stream_prompts`, for example.

        Yields:
            Those that are left, in order.
        """
        for prompt in prompts:
            filtered = self.filter_prompt(prompt)
            if filtered is not None:
                yield filtered

    def stream_conversations(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        """Filter conversations while they are read; none is kept in memory.

        Args:
            conversations: any conversations.

        Yields:
            Those that are left, in order.
        """
        for conversation in conversations:
            filtered = self.filter_conversation(conversation)
            if filtered is not None:
                yield filtered

    def _new_cleaner(self) -> RowCleaner:
        """What walks through one row."""
        return RowCleaner(self._scanner, self.settings, self.report)

    def _texts_of_ids(self, row: Mapping[str, Any]) -> Iterator[str]:
        """Answers whose token ids say something else than their messages."""
        if self._tokenizer is None:
            return
        said = set()
        for message in row["messages"]:
            content = message.get("content")
            if isinstance(content, str) and read_role(message) == "assistant":
                said.add(content.strip())
        for ids in answer_ids(row):
            try:
                text = self._tokenizer.decode(ids, skip_special_tokens=True)
            except (IndexError, OverflowError):
                raise UnreadableRow(UNKNOWN_TOKEN_IDS) from None
            if text.strip() not in said:
                yield text

    def _decide(
        self, row: Mapping[str, Any], cleaned: dict[str, Any], cleaner: RowCleaner
    ) -> Mapping[str, Any] | None:
        """The row, its redacted copy, or None; counted."""
        reason = cleaner.reason_to_drop
        if reason is None and PROMPT in cleaner.redacted_places and has_token_ids(row):
            reason = SERVED_PROMPT
        if reason is not None:
            self.report.count_drop(reason)
            return None
        if cleaner.redacted_places:
            self.report.count_redacted()
            return cleaned
        self.report.count_unchanged()
        return row


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
    kept = list(privacy.stream_prompts(prompts))
    _check_readable(privacy.report, "prompt with turns: read_prompts reads other columns")
    return kept, privacy.report


def filter_conversations(
    conversations: Iterable[Conversation],
    settings: PrivacySettings | None = None,
    tokenizer: Decodes | None = None,
) -> tuple[list[Conversation], PrivacyReport]:
    """Take personal data and secrets out of finished conversations.

    A redaction in an answer leaves the conversation out: its words are no longer the target's. So
    does any redaction in a row with token ids.

    Args:
        conversations: from `load_conversations`, for example.
        settings: what is done about each kind. Default: everything that rules find is redacted.
        tokenizer: of the target; reads answers from their token ids too, see `PrivacyFilter`.

    Returns:
        `(conversations, report)`: those that are left, in order, and what was found.

    Raises:
        ValueError: a library that a rule needs is not installed, or no row is a conversation.
    """
    privacy = PrivacyFilter(settings, tokenizer)
    kept = list(privacy.stream_conversations(conversations))
    _check_readable(privacy.report, "conversation with messages of role and content")
    return kept, privacy.report


def _check_readable(report: PrivacyReport, needed: str) -> None:
    """Refuse rows of which none could be read."""
    unreadable = sum(report.dropped[reason] for reason in UNREADABLE)
    if report.rows and unreadable == report.rows:
        raise ValueError(f"none of {report.rows} rows is a {needed}")


def has_token_ids(row: Mapping[str, Any]) -> bool:
    """Whether a row says by token what the target was given.

    Args:
        row: a prompt or a conversation.

    Returns:
        True where it has `served_turns` or another list of ids.
    """
    nothing = (None, [], ())
    return any(row.get(column) not in nothing for column in TOKEN_COLUMNS)
