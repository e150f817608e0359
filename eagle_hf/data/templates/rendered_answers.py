"""One answer as text: rendered with its prompt, and checked to be all there."""

from collections.abc import Container
from typing import Any, NamedTuple

from eagle_hf.data.examples.turns import Turn
from eagle_hf.data.rows import Message
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.messages import called_tools
from eagle_hf.data.templates.template import decode_text, render_text
from eagle_hf.data.templates.thoughts import opens_thought, parts_of_answer, served_text
from eagle_hf.data.templates.whole_text import WholeTokenizer


class RenderedAnswer(NamedTuple):
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


def render_answer(
    processor: Any, messages: list[Message], index: int, arguments: TemplateArguments
) -> RenderedAnswer:
    """The text before assistant message `index`, and with it, as it was served."""
    prompt = render_text(
        processor, messages[:index], add_generation_prompt=True, arguments=arguments
    )
    full = render_text(processor, messages[: index + 1], arguments=arguments)
    if not full.startswith(prompt):
        full = served_text(prompt, full, messages[index]) or full
    return RenderedAnswer(prompt, full)


def check_rendered(answer: RenderedAnswer, message: Message, index: int) -> None:
    """Refuse an answer that is not all behind its prompt."""
    if not answer.follows_prompt:
        raise ValueError(_opening_reason(answer, index))
    for name in called_tools(message):
        if name not in answer.response:
            raise ValueError(
                f"the chat template drops the call of {name!r} from assistant message {index}; "
                "drop the conversation, or use a template for tools"
            )
    for name, part in parts_of_answer(message):
        if part not in answer.response:
            raise ValueError(
                f"the chat template drops or changes the {name} {part!r:.40} of assistant message "
                f"{index}, which the target said; leave it out of the row, or let the target "
                "answer the prompt, which keeps its ids"
            )


def _opening_reason(answer: RenderedAnswer, index: int) -> str:
    """Why the answer of a template that renders it anew has no ids."""
    found = (
        f"assistant message {index} does not follow the template's generation prompt, which ends "
        f"in {answer.prompt[-30:]!r}: in service the target would say something else there; "
    )
    if opens_thought(answer.prompt):
        found += "give the answer its thought inside the content, as the target wrote it; or "
    return found + (
        "set the thinking mode with chat_template_kwargs, change the template, or let the target "
        "answer the prompt, which keeps its ids"
    )


def check_response(
    tokenizer: WholeTokenizer, turn: Turn, message: Message, stop: Container[int], index: int
) -> None:
    """Refuse a turn whose learnt tokens are not the answer, all of it.

    Args:
        tokenizer: the target's.
        turn: of assistant message `index`.
        message: the answer.
        stop: tokens that end a turn.
        index: number of the message.

    Raises:
        ValueError: nothing but an end-of-turn token is learnt; the answer's text spells a special
            token; or an end-of-turn token parts the answer.
    """
    ids = turn.response_ids
    if not ids or ids[0] in stop:
        raise ValueError(
            f"assistant message {index} has zero response tokens; drop the conversation"
        )
    texts = [text for _, text in parts_of_answer(message)]
    spelled = tokenizer.spelled_special(ids, texts)
    if spelled is not None:
        raise ValueError(
            f"assistant message {index} holds {spelled!r} as text, which the tokenizer reads as a "
            "special token; drop the conversation, or spell it otherwise"
        )
    behind = decode_text(tokenizer.tokenizer, turn.closing_ids)
    for text in texts:
        if text in behind:
            raise ValueError(
                f"an end-of-turn token stands inside assistant message {index}, before "
                f"{text!r:.40}, which would not be learnt; name the tokens at which the target "
                "really stops: target.generation_config.eos_token_id"
            )
