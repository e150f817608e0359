"""Evaluation prompts by category, which are never trained on.

Sources and licences of the bundled ones are in data/bundled/SOURCES.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from eagle_hf.data.prompts.bundled_sets import bundled_prompts
from eagle_hf.data.prompts.gathering import evenly_spread, read_prompts
from eagle_hf.data.prompts.long_texts import COUNT, is_long, long_length, long_suite
from eagle_hf.data.prompts.outside_suites import read_outside_suite
from eagle_hf.data.rows import Message, Prompt
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import SENTINEL, chat_template, render_text

SUITES = {
    "chat": "eval_chat_mt_bench",
    "code": "eval_code_human_eval",
    "math": "eval_math_gsm8k_100",
    "multilingual": "eval_multilingual_chatterbot",
}
DEFAULT = ("chat", "code", "math")


def load_suite(
    names: Sequence[str] = DEFAULT,
    per_category: int | None = None,
    leave_out: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Prompt]:
    """Load prompts to evaluate on.

    Args:
        names: bundled categories (the keys of `SUITES`); "long:4k", see long_texts.py; files for
            `read_prompts`; or files and folders of other suites, see outside_suites.py.
        per_category: most prompts of each category, evenly spread over it. Default: all, and 8 long
            ones.
        leave_out: take the prompts of `load_suite(names, leave_out)` away first, so that a head is
            not judged by the prompts that it was chosen by.
        tokenizer: the target's, for long prompts.

    Returns:
        The prompts, category by category, with distinct ids.

    Raises:
        ValueError: an unknown name, no prompt is left of a category, or no tokenizer for long
            prompts.
    """
    check_suites(names)
    prompts: list[Prompt] = []
    ids: set[str] = set()
    for name in names:
        found = _prompts_of(name, per_category, leave_out, tokenizer)
        categories: dict[str, list[Prompt]] = {}
        for prompt in found:
            categories.setdefault(prompt["category"], []).append(prompt)
        for members in categories.values():
            # Evenly spread prompts are not a prefix, so they are taken away by id.
            chosen_on = {prompt["id"] for prompt in evenly_spread(members, leave_out)}
            remaining = [prompt for prompt in members if prompt["id"] not in chosen_on]
            if not remaining:
                raise ValueError(
                    f"{name} has {len(chosen_on)} prompts and leave_out is {leave_out}; leave "
                    "fewer out"
                )
            for prompt in evenly_spread(remaining, per_category):
                if prompt["id"] in ids:
                    prompt["id"] = f"{name}/{prompt['id']}"
                ids.add(prompt["id"])
                prompts.append(prompt)
    return prompts


def check_suites(names: Sequence[str]) -> None:
    """Refuse names that stand for no prompts, before anything large is opened.

    Args:
        names: as for `load_suite`.

    Raises:
        ValueError: One is no category, file or folder, or is given twice.
    """
    for name in names:
        if is_long(name):
            long_length(name)
        elif name not in SUITES and not Path(name).exists():
            raise ValueError(
                f"no category or file is called {name!r}; take of {', '.join(SUITES)}, long:4k, "
                "or give a .jsonl file or a folder"
            )
        if list(names).count(name) > 1:
            raise ValueError(f"the suite {name} is given {list(names).count(name)} times")


def _prompts_of(
    name: str,
    per_category: int | None,
    leave_out: int,
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[Prompt]:
    """All prompts of a name."""
    if name in SUITES:
        found, _ = read_prompts(bundled_prompts(SUITES[name]))
        return found
    if not is_long(name):
        return read_outside_suite(Path(name))
    if tokenizer is None:
        raise ValueError(f"{name} is a number of tokens; give load_suite the target's tokenizer")
    return long_suite(name, tokenizer, (per_category or COUNT) + leave_out)


def with_template_variables(
    prompts: Sequence[Prompt], tokenizer: Any, chat_template_kwargs: object
) -> list[Prompt]:
    """Give prompts the variables of the chat template that they are to be answered with.

    Args:
        prompts: those that have variables of their own keep them.
        tokenizer: the target's, with a chat template.
        chat_template_kwargs: a mapping, a JSON object as text, or None.

    Returns:
        Copies of the prompts.

    Raises:
        ValueError: they are no variables, or the template reads none of that name.
    """
    arguments = TemplateArguments.read(chat_template_kwargs)
    arguments.check_read_by(chat_template(tokenizer))
    given: list[Prompt] = []
    for prompt in prompts:
        variables = dict(arguments.for_row(prompt).variables)
        given.append({**prompt, "chat_template_kwargs": variables} if variables else prompt)
    return given


def first_turn_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> BatchEncoding:
    """Render and tokenize a prompt's first user turn, up to where the answer begins.

    Args:
        tokenizer: the target's tokenizer, with a chat template.
        prompt: its first turn, system message, tools and template variables are used.

    Returns:
        `input_ids` and `attention_mask`, both of shape [1, S].

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    messages: list[Message] = []
    system = prompt.get("system")
    if system:
        messages.append({"role": "system", "content": system})
    messages.append({"role": "user", "content": prompt["turns"][0]})
    arguments = TemplateArguments().for_row(prompt)
    text = render_text(tokenizer, messages, add_generation_prompt=True, arguments=arguments)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")


def long_prompts(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    count: int,
    names: Sequence[str] = DEFAULT,
    template_arguments: TemplateArguments | None = None,
) -> torch.Tensor:
    """Make prompts of one length from the first turns of a suite, as one long user turn each.

    The answers to such prompts are of little use: the prompts are text to prefill that no draft
    head of this project was trained on.

    Args:
        tokenizer: the target's tokenizer, with a chat template.
        length: tokens of each prompt.
        count: how many prompts; each begins at another turn of the suite.
        names: of the suite, as in `load_suite`.
        template_arguments: what the chat template is given. Default: nothing.

    Returns:
        Token ids of shape [count, length].

    Raises:
        ValueError: the length is too small for the template or too large for the suite.
    """
    turns = [prompt["turns"][0] for prompt in load_suite(names)]
    before, after = _around_user_turn(tokenizer, template_arguments)
    fixed = len(before) + len(after)
    room = length - fixed
    prompts = []
    # Each prompt begins at another turn, so that no two share a prefix.
    for number in range(count):
        start = number * len(turns) // count
        text = "\n\n".join(turns[start:] + turns[:start])
        body = tokenizer.encode(text, add_special_tokens=False)
        if not 0 < room <= len(body):
            raise ValueError(
                f"length is {length} tokens; these turns and the template allow {fixed + 1} to "
                f"{fixed + len(body)}"
            )
        prompts.append(before + body[:room] + after)
    return torch.tensor(prompts)


def _around_user_turn(
    tokenizer: PreTrainedTokenizerBase, arguments: TemplateArguments | None
) -> tuple[list[int], list[int]]:
    """The tokens that the template puts before and after a user turn."""
    messages: list[Message] = [{"role": "user", "content": SENTINEL}]
    text = render_text(tokenizer, messages, add_generation_prompt=True, arguments=arguments)
    before, after = text.split(SENTINEL)
    return (
        tokenizer.encode(before, add_special_tokens=False),
        tokenizer.encode(after, add_special_tokens=False),
    )
