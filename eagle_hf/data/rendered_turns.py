"""Turns of conversations that are text: rendered, and tokenised whole."""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from eagle_hf.data.images import ConversationEncoder, ImageInputs
from eagle_hf.data.messages import called_tools, image_parts
from eagle_hf.data.rows import Message
from eagle_hf.data.template import render_text
from eagle_hf.data.template_arguments import TemplateArguments
from eagle_hf.data.turns import Turn, until_end_of_turn
from eagle_hf.data.whole_text import WholeText, WholeTokenizer


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
        ValueError: the template refuses the messages or drops a tool call, or an answer is empty.
    """
    processor = tokenizer.processor
    rendered = [_render_answer(processor, messages, index, arguments) for index in answers]
    # Templates that only ever append need no more than this one.
    whole = tokenizer.read(rendered[-1].full)
    turns = []
    left_out = []
    for index, answer in zip(answers, rendered, strict=True):
        if not answer.follows_prompt:
            left_out.append(LeftOutAnswer(index, _opening_reason(answer, index)))
            continue
        _check_calls_shown(answer, messages[index], index)
        turn = None
        if whole.text.startswith(answer.full):
            turn = _cut_turn(whole, answer, stop)
        if turn is None and answer.full != whole.text:
            turn = _cut_turn(tokenizer.read(answer.full), answer, stop)
        if turn is None:
            left_out.append(LeftOutAnswer(index, _boundary_reason(answer)))
            continue
        _check_response(turn.response_ids, stop, index)
        turns.append(turn)
    return turns, left_out


class _RenderedAnswer(NamedTuple):
    """The text up to an answer, and with it."""

    prompt: str
    full: str

    @property
    def follows_prompt(self) -> bool:
        """Whether the answer is the difference of the two."""
        return self.full.startswith(self.prompt)

    @property
    def response(self) -> str:
        """The answer, where it follows the prompt."""
        return self.full[len(self.prompt) :]


def _render_answer(
    processor: Any, messages: list[Message], index: int, arguments: TemplateArguments
) -> _RenderedAnswer:
    """The text before assistant message `index`, and with it."""
    prompt = render_text(
        processor, messages[:index], add_generation_prompt=True, arguments=arguments
    )
    full = render_text(processor, messages[: index + 1], arguments=arguments)
    return _RenderedAnswer(prompt, full)


def _opening_reason(answer: _RenderedAnswer, index: int) -> str:
    """Why the answer of a template that renders it anew has no ids."""
    return (
        f"assistant message {index} does not follow the template's generation prompt, which ends "
        f"in {answer.prompt[-30:]!r}: in service the target would say something else there; set "
        "the thinking mode with chat_template_kwargs, change the template, or let the target "
        "answer the prompt, which keeps its ids"
    )


def _check_calls_shown(answer: _RenderedAnswer, message: Message, index: int) -> None:
    """Refuse an answer whose tool calls the template drops."""
    for name in called_tools(message):
        if name not in answer.response:
            raise ValueError(
                f"the chat template drops the call of {name!r} from assistant message {index}; "
                "drop the conversation, or use a template for tools"
            )


def _cut_turn(whole: WholeText, answer: _RenderedAnswer, stop: Container[int]) -> Turn | None:
    """The turn of an answer that `whole` begins with; None where its tokens are others alone."""
    begin = whole.tokens_of(answer.prompt)
    end = whole.tokens_of(answer.full)
    if begin is None or end is None:
        return None
    said = whole.ids[begin:end]
    response = until_end_of_turn(said, stop)
    closing = said[len(response) :]
    following = whole.ids[end : end + 1]
    has_ended = bool(response) and response[-1] in stop
    # Some templates write the next role's marker where the target ends its turn with it.
    if response and not has_ended and following and following[0] in stop:
        response = response + following
    return Turn(whole.ids[:begin], response, closing)


def _boundary_reason(answer: _RenderedAnswer) -> str:
    """Why an answer has no ids."""
    return (
        f"tokenised whole, the answer {answer.response!r:.40} joins the prompt's end "
        f"{answer.prompt[-20:]!r} in a token that the target was never served; "
        "let the target answer the prompt, which keeps its ids"
    )


def _check_response(ids: list[int], stop: Container[int], index: int) -> None:
    """Refuse an end-of-turn token alone: it is no response."""
    if not ids or ids[0] in stop:
        raise ValueError(
            f"assistant message {index} has zero response tokens; drop the conversation"
        )


def image_turns(
    processor: Any,
    messages: list[Message],
    images: Sequence[Any],
    *,
    stop: Container[int],
    arguments: TemplateArguments,
) -> tuple[list[Turn], ImageInputs | None]:
    """The turns of a conversation with images, piece by piece: a processor tells no offsets.

    Args:
        processor: the target's.
        messages: checked.
        images: what image parts without an image of their own stand for, in order.
        stop: tokens that end a turn.
        arguments: of the template.

    Returns:
        A turn for each answer, and what the processor prepares beside the tokens.

    Raises:
        ValueError: the images cannot be read, the template renders history anew, or an answer is
            empty.
    """
    encoder = ConversationEncoder(processor, images)
    turns = []
    ids: list[int] = []
    rendered = ""
    begin = 0  # the first message that is not yet rendered
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        answer = _render_answer(processor, messages, index, arguments)
        if not answer.follows_prompt:
            raise ValueError(_opening_reason(answer, index))
        if not answer.prompt.startswith(rendered):
            raise ValueError(
                f"the template renders the messages before assistant message {index} anew (a "
                "thinking mode?), which conversations with images cannot follow yet; turn that "
                "mode off with chat_template_kwargs, or keep single-turn conversations"
            )
        asked = messages[begin:index]
        ids = ids + encoder.encode_prompt(answer.prompt[len(rendered) :], asked, len(ids))
        said = encoder.encode(answer.response)
        response = until_end_of_turn(said, stop)
        _check_response(response, stop, index)
        turns.append(Turn(ids, response, said[len(response) :]))
        ids = ids + said
        rendered = answer.full
        begin = index + 1
    return turns, encoder.image_inputs(rendered, len(ids))


def has_images(messages: Sequence[Message], images: Sequence[Any]) -> bool:
    """Whether a checked conversation holds images, or its row does."""
    return bool(images) or any(image_parts(message) for message in messages)
