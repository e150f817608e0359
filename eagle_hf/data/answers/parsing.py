"""What an answer says, taken out of its tokens: the text, the reasoning before it, tool calls.

How a model writes reasoning is never guessed. The evidence, in this order:

1. The tokenizer has a `response_template`, and transformers parses by it.
2. The chat template names the marks of channels (gpt-oss).
3. The chat template names a pair of marks around reasoning (`<think>`).

Without evidence, or where an answer does not follow it, the answer stays whole.

    <|channel|>analysis<|message|>easy<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>
               reasoning: easy                                                  text: 4
"""

import re
from collections.abc import Container
from typing import Any, NamedTuple

from eagle_hf.data.examples.images import tokenizer_of
from eagle_hf.data.templates.messages import REASONING_NAMES
from eagle_hf.data.templates.template import answer_text, chat_template, without_end

THINKING_MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
)
CHANNEL = "<|channel|>"
MESSAGE = "<|message|>"
# A message of a channel ends with any of these; only the first two are no end of the turn.
MESSAGE_ENDS = ("<|end|>", "<|start|>", "<|call|>", "<|return|>")
RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")
PROMPT_TAIL = 16  # tokens of a prompt in which its last mark is looked for


class ParsedAnswer(NamedTuple):
    """An answer in its parts.

    Attributes:
        text: what people read, without the reasoning.
        reasoning: what the target thought first; empty where it did not.
        tool_calls: as OpenAI's API has them; None where there are none.
    """

    text: str
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] | None = None


class AnswerParser:
    """Takes answers of one target apart.

    Args:
        tokenizer: the target's tokenizer or processor, with a chat template.
        stop: tokens that end a turn.

    Raises:
        ValueError: the tokenizer has no chat template, or a response_template that transformers
            cannot read.
    """

    def __init__(self, tokenizer: Any, stop: Container[int]):
        self.tokenizer = tokenizer_of(tokenizer)
        self.stop = stop
        template = chat_template(tokenizer)
        self._follows_response_template = _has_response_template(self.tokenizer)
        self._channel = self._mark_id(CHANNEL, template)
        self._message = self._mark_id(MESSAGE, template)
        ends = [self._mark_id(mark, None) for mark in MESSAGE_ENDS]
        self._message_ends = {mark for mark in ends if mark is not None}
        self._marks = _named_marks(template)

    def parse(
        self,
        prompt_ids: list[int],
        response_ids: list[int],
        tools: list[dict[str, Any]] | None = None,
    ) -> ParsedAnswer:
        """Take an answer apart.

        Args:
            prompt_ids: of its prompt; some templates begin the answer's reasoning there.
            response_ids: of the answer, with its end-of-turn token where it was sampled.
            tools: that the target may call.

        Returns:
            The parts; the whole text as `text` where nothing says how it is to be parted.
        """
        parsed = None
        if self._follows_response_template:
            parsed = self._by_response_template(prompt_ids, response_ids, tools)
        elif self._channel is not None and self._message is not None:
            parsed = self._by_channels(response_ids)
        elif self._marks is not None:
            parsed = self._by_marks(prompt_ids, response_ids, *self._marks)
        if parsed is None:
            return ParsedAnswer(answer_text(self.tokenizer, response_ids, self.stop))
        return parsed

    def _mark_id(self, mark: str, template: str | None) -> int | None:
        """The id of a mark that is one token, and that the template names if one is given."""
        is_named = template is None or mark in template
        ids = self.tokenizer.encode(mark, add_special_tokens=False) if is_named else []
        return ids[0] if len(ids) == 1 else None

    def _decode(self, ids: list[int]) -> str:
        """The text of tokens, special ones included."""
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        assert isinstance(text, str), "one list of ids is one text"
        return text

    def _by_response_template(
        self, prompt_ids: list[int], response_ids: list[int], tools: list[dict[str, Any]] | None
    ) -> ParsedAnswer | None:
        """What transformers takes out of it; None where the answer does not follow the template."""
        try:
            message = self.tokenizer.parse_response(response_ids, prefix=prompt_ids, tools=tools)
        except (ValueError, LookupError):  # a tool call that is no JSON, say
            return None
        text = message.get("content") or ""
        reasoning = ""
        for name in REASONING_NAMES:
            reasoning = reasoning or message.get(name) or ""
        calls = message.get("tool_calls") or None
        # Words outside all of its fields are lost to the template.
        is_empty = not text.strip() and not reasoning.strip() and not calls
        return None if is_empty else ParsedAnswer(text, reasoning, calls)

    def _by_channels(self, response_ids: list[int]) -> ParsedAnswer | None:
        """The messages of an answer by their channels; None where some words stand in none."""
        texts = []
        thoughts = []
        calls = []
        ids = without_end(response_ids, self.stop)
        messages = self._channel_messages(ids)
        was_cut = len(ids) == len(response_ids)
        if was_cut and messages[1:] and messages[-1][1] is None:
            messages.pop()  # cut inside its header
        for header, body in messages:
            name = header.partition(CHANNEL)[2].split(" ")[0]
            recipient = RECIPIENT.search(header)
            if not name or body is None:
                return None
            if recipient:
                function = {"name": recipient[1], "arguments": body}
                calls.append({"type": "function", "function": function})
            elif name == "analysis":
                thoughts.append(body)
            else:
                texts.append(body)
        return ParsedAnswer("\n".join(texts), "\n".join(thoughts), calls or None)

    def _channel_messages(self, ids: list[int]) -> list[tuple[str, str | None]]:
        """(header, body) of every message of an answer; no body where no mark began one."""
        messages: list[tuple[str, str | None]] = []
        header: list[int] = []
        body: list[int] = []
        in_body = False
        for token in [*ids, None]:
            is_end = token is None or token in self._message_ends
            if is_end and (header or body):
                said = self._decode(body) if in_body else None
                messages.append((self._decode(header), said))
                header = []
                body = []
                in_body = False
            elif token == self._message:
                in_body = True
            elif token is not None and not is_end:
                (body if in_body else header).append(token)
        return messages

    def _by_marks(
        self, prompt_ids: list[int], response_ids: list[int], opening: str, closing: str
    ) -> ParsedAnswer | None:
        """Reasoning between two marks, and the text behind it; None where there is none."""
        tail = self._decode(prompt_ids[-PROMPT_TAIL:]).rstrip()
        ids = without_end(response_ids, self.stop)
        whole = self._decode(ids)
        is_open = tail.endswith(opening) or whole.lstrip().startswith(opening)
        closing_id = self._mark_id(closing, None)
        has_closing_token = closing_id is not None and closing_id in ids
        # DeepSeek-R1 may begin to think without a mark, but not where the prompt closed one.
        is_unmarked = has_closing_token and not tail.endswith(closing)
        if not is_open and not is_unmarked:
            return None
        if has_closing_token:
            place = ids.index(closing_id)
            thought = self._decode(ids[:place])
            text = self._decode(ids[place + 1 :])
        elif closing_id is None:
            thought, _, text = whole.partition(closing)
        else:
            # A text that imitates the mark ends nothing.
            thought = whole
            text = ""
        thought = thought.strip().removeprefix(opening).strip()
        return ParsedAnswer(text.lstrip(), thought)


def _has_response_template(tokenizer: Any) -> bool:
    """Whether a tokenizer says how transformers parses its answers."""
    if getattr(tokenizer, "response_template", None) is None:
        return False
    try:
        tokenizer.get_response_parser(prefix="")
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"tokenizer.response_template cannot be read ({error}); correct it, or set it to None"
        ) from error
    return True


def _named_marks(template: str) -> tuple[str, str] | None:
    """The marks around reasoning that a template names; None where it names none."""
    for opening, closing in THINKING_MARKS:
        if closing in template:
            return opening, closing
    return None
