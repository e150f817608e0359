"""Token ids that a server does not give, recovered by tokenizing, or left out.

What was sampled may have been other tokens with the same text. So recovered ids are marked, and
nothing is recovered where text and ids cannot agree: a template that is not the server's, a
template that changes, hides or adds to the answer, a token that spans the answer's first character,
another number of tokens than the server counted.

Ids that a server gives must spell its text. Otherwise it has another tokenizer, and so another
model.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from eagle_hf.data.answers.turns import FinishedTurn, TurnRequest
from eagle_hf.data.examples.kept_answers import is_spelt
from eagle_hf.data.examples.turns import MISSING, RECOVERED, until_end_of_turn
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.messages import called_tools
from eagle_hf.data.templates.template import chat_template, decode_text, render_text


class IdRecovery:
    """Fills in missing ids with the target's own tokenizer, and checks those that are there.

    Args:
        tokenizer: the target's, with the chat template that the servers use.
        eos_token_ids: tokens that end a turn.
    """

    def __init__(self, tokenizer: Any, eos_token_ids: Collection[int]):
        self.tokenizer = tokenizer
        self.eos_token_ids = frozenset(eos_token_ids)
        self.template = chat_template(tokenizer)

    def fill(
        self,
        request: TurnRequest,
        turn: FinishedTurn,
        arguments: TemplateArguments | None = None,
    ) -> FinishedTurn:
        """Recover the ids that are missing, and drop those that do not spell the text.

        Args:
            request: what was asked.
            turn: the answer.
            arguments: that the server's template was given. Default: none.

        Returns:
            The turn with RECOVERED ids where they could be recovered.
        """
        message = turn.message()
        ids = turn.response_ids
        if ids is not None and not is_spelt(self.tokenizer, ids, message):
            return replace(turn, response_ids=None, response_ids_from=MISSING)
        if MISSING not in (turn.prompt_ids_from, turn.response_ids_from):
            return turn
        try:
            prompt = render_text(
                self.tokenizer, request.messages, add_generation_prompt=True, arguments=arguments
            )
            whole = render_text(self.tokenizer, [*request.messages, message], arguments=arguments)
        except ValueError:
            return turn
        prompt_ids = self._encode(prompt)
        # The server counts the tokens of its own prompt. Another number is another template.
        if turn.prompt_tokens not in (None, len(prompt_ids)):
            return turn
        if turn.prompt_ids_from == MISSING:
            turn = replace(turn, prompt_ids=prompt_ids, prompt_ids_from=RECOVERED)
        if turn.prompt_ids != prompt_ids or turn.response_ids_from != MISSING:
            return turn
        response_ids = self._response_ids(prompt, whole, prompt_ids, turn)
        if not response_ids:
            return turn
        return replace(turn, response_ids=response_ids, response_ids_from=RECOVERED)

    def _response_ids(
        self, prompt: str, whole: str, prompt_ids: list[int], turn: FinishedTurn
    ) -> list[int] | None:
        """The answer's ids, from the rendered conversation; None where they cannot be told."""
        if not whole.startswith(prompt):
            return None
        response = whole[len(prompt) :]
        if not _shows(response, turn):
            return None
        was_cut = turn.finish_reason == "length"
        if was_cut:
            # The template ends every turn, and the target did not end this one.
            response = _until_last_said(response, turn)
        response_ids = self._ids_behind(prompt, response, prompt_ids)
        shows_end = response_ids is not None and self._ends_turn(response_ids)
        if not shows_end and not was_cut:
            # A newline, say, that the template puts between turns was not sampled.
            if turn.tool_calls:
                return None
            response_ids = self._ids_behind(prompt, _until_last_said(response, turn), prompt_ids)
        if response_ids is None:
            return None
        # A text that imitates an end token, say, was not sampled as that token.
        is_spelt = turn.text.strip() in decode_text(self.tokenizer, response_ids)
        is_right = is_spelt and self._counts_agree(response_ids, turn, was_cut)
        return response_ids if is_right else None

    def _ids_behind(self, prompt: str, response: str, prompt_ids: list[int]) -> list[int] | None:
        """The ids of a response up to the end of its turn; None where one spans its beginning."""
        # Tokenized whole: SentencePiece would begin the answer alone with a space.
        ids = self._encode(prompt + response)
        if ids[: len(prompt_ids)] != prompt_ids:
            return None
        return until_end_of_turn(ids[len(prompt_ids) :], self.eos_token_ids)

    def _ends_turn(self, ids: list[int]) -> bool:
        """Whether the last of some ids ends a turn."""
        return bool(ids) and ids[-1] in self.eos_token_ids

    def _counts_agree(self, ids: list[int], turn: FinishedTurn, was_cut: bool) -> bool:
        """Whether as many tokens were recovered as the server counted."""
        if turn.sampled_tokens is None:
            # The arguments of a call are written in many ways, and only the number tells.
            return not turn.tool_calls
        more = len(ids) - turn.sampled_tokens
        if was_cut:
            return more == 0
        # Only the end-of-turn token may differ: servers count it or not, templates show it or not.
        return more in ((0, 1) if self._ends_turn(ids) else (0, -1))

    def _encode(self, text: str) -> list[int]:
        """The ids of a rendered text, which has its special tokens already."""
        return self.tokenizer.encode(text, add_special_tokens=False)


def _shows(response: str, turn: FinishedTurn) -> bool:
    """Whether a rendered answer shows what was said, and puts nothing before it."""
    is_parsed = turn.reasoning or turn.tool_calls
    if not is_parsed:
        return response.startswith(turn.text)
    # Marks stand around reasoning and calls, and the template knows which.
    parts = [turn.reasoning.strip(), turn.text, *called_tools(turn.message())]
    return all(part in response for part in parts)


def _until_last_said(response: str, turn: FinishedTurn) -> str:
    """A rendered answer without what the template puts behind its last word."""
    last_said = turn.text or turn.reasoning.strip()
    return response[: response.rindex(last_said) + len(last_said)]
