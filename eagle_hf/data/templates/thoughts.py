"""Thinking modes: what a target says behind a generation prompt that opens or closes a thought.

A generation prompt may end inside a thought, or behind an empty one. Many templates render the
finished answer without it, since they drop the thoughts of history:

    prompt      <assistant> <think> </think>
    rendered    <assistant> yes <end>
    served      <assistant> <think> </think> yes <end>

The served text is put together from the two where nothing has to be invented: behind an empty
thought the answer follows, and an answer whose own text holds its thought goes on from an open one.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from eagle_hf.data.templates.messages import REASONING_NAMES, with_text_content

THOUGHT_END = "</think>"
# The ends of generation prompts: behind an empty thought, and inside one.
EMPTY_THOUGHT = re.compile(
    r"(?:<think>\s*</think>"
    r"|<\|channel>thought\n<channel\|>"
    r"|<\|START_THINKING\|><\|END_THINKING\|>)\s*\Z"
)
OPEN_THOUGHT = re.compile(r"<think>\s*\Z")
# What templates write in the place of a thought that there was not.
NO_THOUGHT = re.compile(r"\s*(?:<think>\s*)?</think>\s*")
THOUGHT_MARKS = re.compile(
    r"</?think>|<\|channel>thought\n|<channel\|>|<\|(?:START|END)_THINKING\|>"
)


def served_text(prompt: str, rendered: str, message: Mapping[str, Any]) -> str | None:
    """Put the text together that the target was served and said.

    Args:
        prompt: rendered, to the end of the generation prompt.
        rendered: the same conversation with its answer; it does not begin with `prompt`.
        message: the answer.

    Returns:
        A text that begins with `prompt`; None where something would have to be invented.
    """
    empty = EMPTY_THOUGHT.search(prompt)
    if empty is not None:
        return _behind_empty_thought(prompt, empty.start(), rendered)
    opened = OPEN_THOUGHT.search(prompt)
    if opened is not None:
        return _behind_open_thought(prompt, opened.start(), rendered, message)
    return None


def _behind_empty_thought(prompt: str, begin: int, rendered: str) -> str | None:
    """The answer behind a prompt whose thought, from `begin` on, is empty."""
    said = _without_thought(rendered, prompt[:begin])
    if said is None or THOUGHT_MARKS.match(said):
        return None
    return prompt + said


def _behind_open_thought(
    prompt: str, begin: int, rendered: str, message: Mapping[str, Any]
) -> str | None:
    """The answer behind a prompt that opens a thought at `begin`, where its text has that thought.

    The template has dropped the thought, so its rendering only tells what follows the answer.
    """
    content = with_text_content(message).get("content")
    if not isinstance(content, str) or THOUGHT_END not in content:
        return None
    thought, visible = content.rsplit(THOUGHT_END, 1)
    shown = _without_thought(rendered, prompt[:begin])
    answer = visible.strip()
    if shown is None or not answer or not shown.lstrip().startswith(answer):
        return None
    closing = shown.lstrip()[len(answer) :]
    opening = prompt[begin:]  # "<think>" and the whitespace behind it
    mark = opening.rstrip()
    thought = thought.removeprefix(mark).removeprefix(opening[len(mark) :])
    between = visible[: len(visible) - len(visible.lstrip())]
    return prompt + thought + THOUGHT_END + between + answer + closing


def _without_thought(rendered: str, head: str) -> str | None:
    """What is rendered behind `head`, without marks of a missing thought."""
    if not rendered.startswith(head):
        return None
    said = rendered[len(head) :]
    mark = NO_THOUGHT.match(said)
    return said[mark.end() :] if mark else said


def opens_thought(prompt: str) -> bool:
    """Whether a generation prompt ends inside a thought."""
    return OPEN_THOUGHT.search(prompt) is not None


def parts_of_answer(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a rendered answer must show, each with its name: its thought and its text.

    Args:
        message: checked, of the assistant.

    Yields:
        `(name, text)`, without the marks and the whitespace around a thought, which templates
        write in their own way.
    """
    for name in REASONING_NAMES:
        reasoning = message.get(name)
        if isinstance(reasoning, str) and reasoning.strip():
            yield "reasoning", reasoning.strip()
            break
    content = with_text_content(message).get("content")
    if isinstance(content, str):
        for part in THOUGHT_MARKS.split(content):
            if part.strip():
                yield "text", part.strip()
