"""A rendered conversation, tokenised whole, and its beginnings as a target was served them.

A prompt is tokenised before the first token of its answer exists. The ids of a conversation are
those of service only if the prompt alone gives the same ids. That is not so everywhere:

    text    "<assistant>\\n" + "\\nyes"
    whole   <assistant> | "\\n\\n" | yes       the newlines are one token
    served  <assistant> | "\\n" | ...         the prompt ended before the second came

So a beginning is tokenised once more, alone. Text behind a special token is tokenised on its own
by every tokenizer, so it is enough to begin at the last one.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from eagle_hf.data.examples.images import tokenizer_of

SHORT = 64  # characters
MOST_SHORT = 1000


class WholeTokenizer:
    """Tokenises rendered conversations.

    Args:
        processor: the target's tokenizer, or its processor. A tokenizer without offsets (a "slow"
            one) works too, but reads every prompt of a conversation again from its beginning.

    Attributes:
        processor: renders.
        tokenizer: tokenises.
        has_offsets: whether it says where in the text its tokens are.
        special_tokens: the texts of its special tokens by id.
    """

    def __init__(self, processor: Any):
        self.processor = processor
        self.tokenizer = tokenizer_of(processor)
        self.has_offsets = bool(getattr(self.tokenizer, "is_fast", False))
        self.special_tokens: dict[int, str] = {}
        self._short: dict[str, list[int]] = {}  # ids of the ends of prompts, which repeat
        for token_id, token in self.tokenizer.added_tokens_decoder.items():
            if token.special:
                self.special_tokens[token_id] = token.content

    def read(self, text: str, known: "WholeText | None" = None) -> "WholeText":
        """Tokenise a rendered conversation.

        Args:
            text: rendered.
            known: a text that was read before. What both begin with is not tokenised again.

        Returns:
            The text in tokens.
        """
        if not self.has_offsets:
            return WholeText(self, text, self.ids_of(text), [])
        if known is None:
            return WholeText(self, text, *self._tokenised(text))
        shared = known.shared_restarts(text)
        if not shared:
            return WholeText(self, text, *self._tokenised(text))
        character, position = shared[-1]
        ids, restarts = self._tokenised(text[character:])
        for own_character, own_position in restarts[1:]:  # the first is the shared one
            shared.append((character + own_character, position + own_position))
        return WholeText(self, text, known.ids[:position] + ids, shared)

    def _tokenised(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, and (character, position) of each special token."""
        encoded: Any = self.tokenizer(
            text,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
        )
        ids = encoded["input_ids"]
        offsets = encoded["offset_mapping"]
        restarts = []
        for position, token in enumerate(ids):
            if token in self.special_tokens:
                restarts.append((offsets[position][0], position))
        return ids, restarts

    def ids_of(self, text: str) -> list[int]:
        """The ids of a text alone."""
        known = self._short.get(text)
        if known is not None:
            return known
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(text) <= SHORT and len(self._short) < MOST_SHORT:
            self._short[text] = ids
        return ids

    def spelled_special(self, ids: Iterable[int], texts: Iterable[str]) -> str | None:
        """Find a special token that somebody wrote as text.

        Args:
            ids: of an answer, with the special tokens of the template.
            texts: what the answer was written in.

        Returns:
            The first special token of both; None where there is none.
        """
        special = [self.special_tokens[one] for one in set(ids) if one in self.special_tokens]
        for text in texts:
            for token in special:
                if token in text:
                    return token
        return None


class WholeText:
    """A rendered conversation in tokens.

    Args:
        tokenizer: tokenised it.
        text: rendered.
        ids: its tokens, [S].
        restarts: (character, position among the tokens) of each special token, in order.

    Attributes:
        text: rendered.
        ids: its tokens, [S].
    """

    def __init__(
        self, tokenizer: WholeTokenizer, text: str, ids: list[int], restarts: list[tuple[int, int]]
    ):
        self.text = text
        self.ids = ids
        self._tokenizer = tokenizer
        self._restarts = restarts

    def tokens_of(self, beginning: str) -> int | None:
        """How many of the tokens are a beginning of the text.

        Args:
            beginning: the text starts with it.

        Returns:
            Their number; None where the beginning alone has other tokens.
        """
        if len(beginning) == len(self.text):
            return len(self.ids)
        character, position = self._last_restart(len(beginning))
        alone = self._tokenizer.ids_of(beginning[character:])
        end = position + len(alone)
        return end if self.ids[position:end] == alone else None

    def shared_restarts(self, text: str) -> list[tuple[int, int]]:
        """The special tokens in what this text and another begin with, and each is whole in both.

        Args:
            text: the other.

        Returns:
            (character, position among the tokens) of each, in order.
        """
        common = _common_length(self.text, text)
        count = bisect_left(self._restarts, (common, 0))
        # The last of them may be cut, or go on otherwise: "<|im_start|>" and "<|im_sep|>".
        return self._restarts[: max(0, count - 1)]

    def _last_restart(self, before: int) -> tuple[int, int]:
        """The last special token that begins before a character, or the text's own beginning."""
        count = bisect_left(self._restarts, (before, 0))
        return self._restarts[count - 1] if count else (0, 0)


def _common_length(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    low = 0
    high = min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
