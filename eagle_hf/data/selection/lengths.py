"""Prompts that are too short, too long for the context, or imitate the template's own tokens."""

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.rows import Prompt


class LengthRule:
    """Removes prompts that are too short or too long.

    All turns and the system message count. The template adds a few tokens to each turn, so leave
    room for them and for the answers.

    Args:
        min_characters: fewest characters.
        max_characters: most characters. Default: no limit.
        max_tokens: most tokens, counted by `tokenizer`. Default: no limit.
        tokenizer: the target's. Needed with `max_tokens`.

    Raises:
        ValueError: limits that nothing can meet, or `max_tokens` without a tokenizer.
    """

    name = "length"

    def __init__(
        self,
        min_characters: int = 1,
        max_characters: int | None = None,
        max_tokens: int | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        if max_characters is not None and max_characters < min_characters:
            raise ValueError(
                f"min_characters is {min_characters} and max_characters {max_characters}; "
                "the second must not be smaller"
            )
        if max_tokens is not None and tokenizer is None:
            raise ValueError(f"max_tokens is {max_tokens} and tokenizer is None; pass the target's")
        self.min_characters = min_characters
        self.max_characters = max_characters
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer

    def objection(self, prompt: Prompt) -> str | None:
        """See `PromptRule`."""
        text = whole_text(prompt)
        if len(text) < self.min_characters:
            return f"{len(text)} characters, at least {self.min_characters} are needed"
        if self.max_characters is not None and len(text) > self.max_characters:
            return f"{len(text)} characters, at most {self.max_characters} are allowed"
        return self._too_many_tokens(text)

    def _too_many_tokens(self, text: str) -> str | None:
        """Why the text does not fit, counted in tokens."""
        if self.max_tokens is None:
            return None
        assert self._tokenizer is not None
        tokens = len(self._tokenizer.encode(text, add_special_tokens=False))
        if tokens > self.max_tokens:
            return f"{tokens} tokens, at most {self.max_tokens} are allowed"
        return None


class SpecialTokenRule:
    """Removes prompts whose text the tokenizer reads as special tokens, such as "<|im_end|>".

    In a rendered chat such a text ends a turn or begins another one.

    Args:
        tokenizer: the target's.
    """

    name = "special tokens"

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        self._special = sorted(special | set(tokenizer.all_special_tokens))

    def objection(self, prompt: Prompt) -> str | None:
        """See `PromptRule`."""
        text = whole_text(prompt)
        for token in self._special:
            if token in text:
                return f"the text holds the special token {token!r}"
        return None


def whole_text(prompt: Prompt) -> str:
    """All that a prompt says.

    Args:
        prompt: its system message and turns are used.

    Returns:
        The texts, one below the other.
    """
    system = prompt.get("system")
    texts = [system] if system else []
    return "\n".join([*texts, *prompt["turns"]])
