"""Evaluation prompts by category; never trained on. Sources and licences: data/bundled/SOURCES.md."""

from pathlib import Path

import torch

from eagle_hf.data.prompts import bundled_prompts, evenly_spread, read_prompts
from eagle_hf.data.template import SENTINEL, chat_template, render_text

SUITES = {
    "chat": "eval_chat_mt_bench",
    "code": "eval_code_human_eval",
    "math": "eval_math_gsm8k_100",
    "multilingual": "eval_multilingual_chatterbot",
}
DEFAULT = ("chat", "code", "math")


def load_suite(names=DEFAULT, per_category: int | None = None, leave_out: int = 0) -> list[dict]:
    """Prompts of bundled categories or of JSON-lines files, evenly spread over each, at most `per_category` of each.

    leave_out: those of `load_suite(names, leave_out)` are taken away first, so that a head is not judged on what it was chosen on.
    """
    prompts = []
    for name in names:
        if name not in SUITES and not Path(name).is_file():
            raise ValueError(
                f"no category or file is called {name!r}; take of {', '.join(SUITES)}, or give a .jsonl file"
            )
        rows, _ = read_prompts(bundled_prompts(SUITES[name]) if name in SUITES else name)
        chosen_on = {prompt["id"] for prompt in evenly_spread(rows, leave_out)}
        rows = [prompt for prompt in rows if prompt["id"] not in chosen_on]
        if not rows:
            raise ValueError(
                f"{name} has {len(chosen_on)} prompts and leave_out is {leave_out}; leave fewer out"
            )
        prompts += evenly_spread(rows, per_category)
    return prompts


def first_turn_ids(tokenizer, prompt: dict):
    """The prompt's first user turn as the model would be asked it: `{"input_ids", "attention_mask"}` [1, S]."""
    chat_template(tokenizer)  # refuses a tokenizer without one
    messages = [{"role": "user", "content": prompt["turns"][0]}]
    if prompt.get("system"):
        messages.insert(0, {"role": "system", "content": prompt["system"]})
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


def long_prompts(tokenizer, length: int, count: int, names=DEFAULT) -> torch.Tensor:
    """`count` prompts of `length` tokens each [count, length]: a suite's first turns one after another, each beginning at another, as one user turn.

    What models make of so much is of little use; it is text to read that no model of ours was trained on.
    """
    turns = [prompt["turns"][0] for prompt in load_suite(names)]
    before, after = render_text(
        tokenizer, [{"role": "user", "content": SENTINEL}], add_generation_prompt=True
    ).split(SENTINEL)
    before, after = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)
    )
    rows = []
    for number in range(count):
        start = number * len(turns) // count
        body = tokenizer("\n\n".join(turns[start:] + turns[:start]), add_special_tokens=False)[
            "input_ids"
        ]
        room = length - len(before) - len(after)
        if not 0 < room <= len(body):
            raise ValueError(
                f"length is {length} tokens; these turns and the template allow {len(before) + len(after) + 1} to {len(before) + len(after) + len(body)}"
            )
        rows.append(before + body[:room] + after)
    return torch.tensor(rows)
