"""Turns of conversations with images, which are rendered and encoded piece by piece."""

from collections.abc import Container, Sequence
from typing import Any

from eagle_hf.data.examples.images import ConversationEncoder, ImageInputs
from eagle_hf.data.examples.turns import Turn, until_end_of_turn
from eagle_hf.data.rows import Message
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.messages import image_parts
from eagle_hf.data.templates.rendered_answers import check_rendered, check_response, render_answer
from eagle_hf.data.templates.whole_text import WholeTokenizer


def image_turns(
    tokenizer: WholeTokenizer,
    messages: list[Message],
    images: Sequence[Any],
    *,
    stop: Container[int],
    arguments: TemplateArguments,
) -> tuple[list[Turn], ImageInputs | None]:
    """The turns of a conversation with images, piece by piece: a processor tells no offsets.

    Args:
        tokenizer: the target's, with its processor.
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
    encoder = ConversationEncoder(tokenizer.processor, images)
    turns = []
    ids: list[int] = []
    rendered = ""
    begin = 0  # the first message that is not yet rendered
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        answer = render_answer(tokenizer.processor, messages, index, arguments)
        check_rendered(answer, message, index)
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
        turn = Turn(ids, response, said[len(response) :])
        check_response(tokenizer, turn, message, stop, index)
        turns.append(turn)
        ids = ids + said
        rendered = answer.full
        begin = index + 1
    return turns, encoder.image_inputs(rendered, len(ids))


def has_images(messages: Sequence[Message], images: Sequence[Any]) -> bool:
    """Whether a checked conversation holds images, or its row does."""
    return bool(images) or any(image_parts(message) for message in messages)
