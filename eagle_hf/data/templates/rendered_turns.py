"""Turns of conversations that are text: rendered, and tokenised whole."""

from collections.abc import Container, Sequence
from typing import NamedTuple

from eagle_hf.data.examples.turns import Turn, has_ended, until_end_of_turn
from eagle_hf.data.rows import Message
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.rendered_answers import (
    RenderedAnswer,
    check_rendered,
    check_response,
    render_answer,
)
from eagle_hf.data.templates.template import SENTINEL, check_shown, render_text
from eagle_hf.data.templates.thoughts import opens_thought, parts_of_answer
from eagle_hf.data.templates.whole_text import WholeText, WholeTokenizer


class LeftOutAnswer(NamedTuple):
    """An answer whose text has no ids that the target could have been served.

    Attributes:
        index: of its message.
        reason: why, as a sentence for a terminal.
    """

    index: int
    reason: str


def text_turns(
    tokenizer: WholeTokenizer,
    messages: list[Message],
    answers: Sequence[int],
    *,
    stop: Container[int],
    arguments: TemplateArguments,
) -> tuple[list[Turn], list[LeftOutAnswer]]:
    """The turns of a conversation that is text.

    Args:
        tokenizer: the target's.
        messages: checked; without images.
        answers: numbers of the assistant's messages that are wanted.
        stop: tokens that end a turn.
        arguments: of the template.

    Returns:
        `(turns, left_out)`: the answers with ids, and those that text and ids disagree about.

    Raises:
        ValueError: the template refuses the messages, or leaves one out.
    """
    processor = tokenizer.processor
    rendered = [render_answer(processor, messages, index, arguments) for index in answers]
    # Templates that only ever append need no more than this one.
    whole = tokenizer.read(rendered[-1].full)
    check_shown(messages[: answers[-1]], whole.text)
    turns = []
    left_out = []
    for index, answer in zip(answers, rendered, strict=True):
        try:
            check_rendered(answer, messages[index], index)
            turn = _cut_turn(tokenizer, whole, answer, stop)
            if not has_ended(turn.response_ids, stop):
                until = messages[: index + 1]
                turn = _end_last(tokenizer, turn, until, stop=stop, arguments=arguments)
            check_response(tokenizer, turn, messages[index], stop, index)
        except ValueError as error:
            left_out.append(LeftOutAnswer(index, str(error)))
        else:
            turns.append(turn)
    return turns, left_out


def _cut_turn(
    tokenizer: WholeTokenizer, whole: WholeText, answer: RenderedAnswer, stop: Container[int]
) -> Turn:
    """The turn of an answer, from the text that begins with it or from its own."""
    turn = None
    if whole.text.startswith(answer.full):
        turn = _turn_inside(whole, answer, stop)
    if turn is None and answer.full != whole.text:
        turn = _turn_inside(tokenizer.read(answer.full, whole), answer, stop)
    if turn is None:
        advice = "let the target answer the prompt, which keeps its ids"
        if opens_thought(answer.prompt):
            advice = f"turn thinking off with chat_template_kwargs, give its reasoning, or {advice}"
        raise ValueError(
            f"tokenised whole, the answer {answer.response!r:.40} joins the prompt's end "
            f"{answer.prompt[-20:]!r} in a token that the target was never served; {advice}"
        )
    return turn


def _turn_inside(whole: WholeText, answer: RenderedAnswer, stop: Container[int]) -> Turn | None:
    """The turn of an answer that `whole` begins with; None where its tokens are others alone."""
    begin = whole.tokens_of(answer.prompt)
    end = whole.tokens_of(answer.full)
    if begin is None or end is None:
        return None
    said = whole.ids[begin:end]
    response = until_end_of_turn(said, stop)
    turn = Turn(whole.ids[:begin], response, said[len(response) :])
    return _with_next_role(turn, whole.ids[end : end + 1], stop)


def _with_next_role(turn: Turn, following: list[int], stop: Container[int]) -> Turn:
    """The turn with the token behind it, where that is how the target ends it.

    Some templates end no turn themselves: the target says the next role's marker, and stops there.
    """
    ends_with_it = bool(following) and following[0] in stop
    if has_ended(turn.response_ids, stop) or not ends_with_it:
        return turn
    return turn._replace(response_ids=turn.response_ids + following)


def _end_last(
    tokenizer: WholeTokenizer,
    turn: Turn,
    messages: list[Message],
    *,
    stop: Container[int],
    arguments: TemplateArguments,
) -> Turn:
    """The turn of the last message, with the marker of a next role where that would end it.

    A user's turn is put behind the answer. Where the answer's text ends, the marker begins.
    """
    calls_tools = bool(messages[-1].get("tool_calls"))  # another role answers these
    answer = list(parts_of_answer(messages[-1]))
    if calls_tools or not answer:
        return turn
    following: Message = {"role": "user", "content": SENTINEL}
    try:
        text = render_text(tokenizer.processor, [*messages, following], arguments=arguments)
    except ValueError:
        return turn  # a template that allows no other turn
    _, end_of_answer = answer[-1]
    before_user = text.split(SENTINEL)[0]
    behind = before_user.rpartition(end_of_answer)[2].lstrip()
    for token, marker in tokenizer.special_tokens.items():
        if token in stop and behind.startswith(marker):
            return turn._replace(response_ids=[*turn.response_ids, token])
    return turn
