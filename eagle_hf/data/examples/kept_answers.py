"""Whether an answer that was kept by token is still the answer that was kept.

The ids are learnt, and the text beside them is for people. A server takes reasoning and tool calls
out of the text, and every parser does it in its own way, so no parser is repeated here:

- The digest of the message is kept with the ids. Whoever edits the message (a privacy filter, a
  person) leaves the digest as it was.
- The first line that the target said must be among what its ids decode to. Another tokenizer
  decodes them to something else.
"""

import hashlib
import json
from collections.abc import Container, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.templates.messages import template_messages, with_text_content
from eagle_hf.data.templates.template import answer_text

REPLACEMENT = "\ufffd"  # what half a character decodes to, at the end of a cut answer


def message_sha256(message: Mapping[str, Any]) -> str:
    """Hash what an answer says: its text, its reasoning and its tool calls.

    Args:
        message: an assistant's, with its reasoning under any of its names. Ids of tool calls and
            other fields do not count, and arguments may be a mapping or JSON text.

    Returns:
        SHA-256 as hexadecimal digits.
    """
    plain = _plain(message)
    calls = []
    for call in plain.get("tool_calls") or ():
        function = call.get("function") or call
        calls.append([function.get("name"), function.get("arguments")])
    said = [plain.get("content") or "", plain.get("reasoning_content") or "", calls]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def is_spelt(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], message: Mapping[str, Any]
) -> bool:
    """Whether ids can be those of an answer.

    Args:
        tokenizer: the target's.
        ids: of the answer as sampled.
        message: the answer, parsed in whichever way.

    Returns:
        False where they decode to another text, and so are another tokenizer's.
    """
    plain = _plain(message)
    said = plain.get("content") or plain.get("reasoning_content") or ""
    first_line = _letters(said.strip().split("\n")[0])
    # Some servers show special tokens.
    for is_hidden in (True, False):
        if first_line in _letters(tokenizer.decode(ids, skip_special_tokens=is_hidden)):
            return True
    return False


def check_kept(
    message: Mapping[str, Any],
    turn: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    stop: Container[int],
) -> None:
    """Refuse an answer whose text and ids are no longer those that were kept together.

    Args:
        message: the answer.
        turn: of the same row's `served_turns`.
        tokenizer: the target's.
        stop: tokens that end a turn.

    Raises:
        ValueError: the message was edited, or the ids are another tokenizer's.
    """
    content = message["content"]
    ids = turn["response_ids"]
    digest = turn.get("message_sha256")
    if digest is None:
        # Rows of the first release of this format: nothing was parsed out of the text.
        is_kept = answer_text(tokenizer, ids, stop) == content
    elif digest != message_sha256(message):
        raise ValueError(
            f"the answer {content!r:.60} is not the one that was kept with its ids: it was edited; "
            "drop the row, or its served_turns to tokenise the text"
        )
    else:
        is_kept = is_spelt(tokenizer, ids, message)
    if not is_kept:
        raise ValueError(
            f"the answer {content!r:.60} is not what its ids decode to: it was "
            "edited, or another tokenizer's; drop the row, or its served_turns to tokenise "
            "the text"
        )


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message in the one form that templates read, its content as text."""
    as_text: Any = with_text_content(message)
    return template_messages([as_text])[0]


def _letters(text: object) -> str:
    """A text without what detokenizers treat differently: spaces, and halves of characters."""
    assert isinstance(text, str), "one list of ids is one text"
    return "".join(text.replace(REPLACEMENT, "").split())
