"""The text of an answer, token by token.

A token may hold a part of a character only, and what a token adds to a text may depend on the
tokens before it. So a few tokens are decoded together, and what the newest one adds is their text
without that of the others.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

INCOMPLETE = "\ufffd"  # stands at the end of a text that ends inside a character


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer.

    Attributes:
        text: of one token, or of several that share a character.
        depth: of the draft in its tree; 0 for a token that had not been drafted.
        token: place of the newest of its tokens in the answer, from 0.
    """

    text: str
    depth: int
    token: int


class TextPieces:
    """Decodes tokens one by one.

    Args:
        tokenizer: the target's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._waiting: list[int] = []  # tokens decoded together
        self._shown = 0  # how many of them have been given out

    def add(self, token: int) -> str:
        """What a token adds to the text; "" while its character is incomplete.

        Special tokens add nothing.
        """
        self._waiting.append(token)
        text = self._decode(self._waiting)
        if text.endswith(INCOMPLETE):
            return ""
        added = text[len(self._decode(self._waiting[: self._shown])) :]
        if not added:  # the next token's text depends on those before this one
            self._waiting.pop()
            return ""
        self._waiting = self._waiting[self._shown :]
        self._shown = len(self._waiting)
        return added

    def rest(self) -> str:
        """What is left where an answer ends inside a character."""
        text = self._decode(self._waiting)
        return text[len(self._decode(self._waiting[: self._shown])) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
