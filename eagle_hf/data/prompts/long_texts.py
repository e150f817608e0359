"""Prompts of one length, 2k to 32k tokens and beyond: long texts with a question behind them.

Every second one is Python code, from the sources of the standard library that runs this process
(PSF licence). The others are the turns of the bundled suites. Each begins at another place, so that
no two share more than the template.
"""

import re
import sysconfig
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.prompts.bundled_sets import bundled_prompts
from eagle_hf.data.prompts.gathering import read_prompts
from eagle_hf.data.rows import Message, Prompt
from eagle_hf.data.templates.template import render_text

NAME = re.compile(r"long:(\d+)(k?)")
KILO = 1024
COUNT = 8  # prompts where nobody says how many
LEAST = 128  # tokens: less is no long text
CODE_QUESTION = "Which functions and classes does the code above define, and what is each one for?"
TEXT_QUESTION = "Which of the tasks above is the hardest, and why?"
TEXTS = ("eval_chat_mt_bench", "eval_math_gsm8k_100", "eval_code_human_eval")


def is_long(name: str) -> bool:
    """Whether a suite's name asks for long prompts: "long:4096" or "long:4k"."""
    return name.startswith("long:")


def long_length(name: str) -> int:
    """Tokens of the prompts of a suite.

    Args:
        name: such as "long:4096" or "long:4k".

    Raises:
        ValueError: It names no length.
    """
    found = NAME.fullmatch(name)
    tokens = int(found[1]) * (KILO if found[2] else 1) if found else 0
    if tokens < LEAST:
        raise ValueError(
            f"the suite is {name!r}; give the tokens of its prompts, {LEAST} at least: long:4096 "
            "or long:4k"
        )
    return tokens


def long_suite(name: str, tokenizer: PreTrainedTokenizerBase, count: int = COUNT) -> list[Prompt]:
    """Make the prompts of a suite such as "long:4k".

    Args:
        name: of the suite.
        tokenizer: the target's, with a chat template.
        count: how many prompts.

    Returns:
        Prompts of the category "long-4096", which the template renders to that many tokens, or a
        few less where text is tokenized otherwise after it was cut.

    Raises:
        ValueError: The name names no length, or the texts are shorter.
    """
    length = long_length(name)
    prompts: list[Prompt] = []
    for number in range(count):
        parts = _code if number % 2 == 0 else _turns
        question = CODE_QUESTION if number % 2 == 0 else TEXT_QUESTION
        start = number / count
        prompts.append(
            {
                "id": f"long/{length}/{number}",
                "turns": [_cut(tokenizer, parts, start, question, length)],
                "category": f"long-{length}",
                "source": "standard library" if number % 2 == 0 else "bundled texts",
            }
        )
    return prompts


def _cut(
    tokenizer: PreTrainedTokenizerBase,
    parts: Callable[[], Sequence[str]],
    start: float,
    question: str,
    length: int,
) -> str:
    """A turn that renders to `length` tokens: parts from a share `start` on, and a question."""
    room = length - _rendered_length(tokenizer, f"\n\n{question}")
    texts = parts()
    first = int(start * len(texts))
    ids: list[int] = []
    for text in [*texts[first:], *texts[:first]]:
        if len(ids) >= room:
            break
        ids += tokenizer.encode(text, add_special_tokens=False)
    if not 0 < room <= len(ids):
        raise ValueError(
            f"the length is {length} tokens; the template takes {length - room} of them, and the "
            f"texts have {len(ids)}"
        )
    while room > 0:
        turn = f"{tokenizer.decode(ids[:room])}\n\n{question}"
        surplus = _rendered_length(tokenizer, turn) - length
        if surplus <= 0:
            return turn
        room -= surplus
    raise ValueError(f"no text of {length} tokens could be made with this tokenizer")


def _rendered_length(tokenizer: PreTrainedTokenizerBase, turn: str) -> int:
    """Tokens of a user turn as the template renders it."""
    message: Message = {"role": "user", "content": turn}
    text = render_text(tokenizer, [message], add_generation_prompt=True)
    return len(tokenizer.encode(text, add_special_tokens=False))


@lru_cache(maxsize=1)
def _code() -> tuple[str, ...]:
    """The modules of the standard library, each under its name."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    modules = []
    for file in sorted(folder.glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="ignore")
        modules.append(f"# {file.name}\n{text}\n")
    if not modules:
        raise ValueError(
            f"{folder} holds no sources of the standard library; long prompts are made of them"
        )
    return tuple(modules)


@lru_cache(maxsize=1)
def _turns() -> tuple[str, ...]:
    """The first turns of bundled suites."""
    turns = []
    for name in TEXTS:
        prompts, _ = read_prompts(bundled_prompts(name))
        turns += [f"{prompt['turns'][0]}\n\n" for prompt in prompts]
    return tuple(turns)
