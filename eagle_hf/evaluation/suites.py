"""Evaluation prompts by category; never trained on. Sources and licences: data/bundled/SOURCES.md."""

from pathlib import Path

from eagle_hf.data.prompts import bundled_prompts, evenly_spread, read_prompts
from eagle_hf.data.template import chat_template

SUITES = {
    "chat": "eval_chat_mt_bench",
    "code": "eval_code_human_eval",
    "math": "eval_math_gsm8k_100",
    "multilingual": "eval_multilingual_chatterbot",
}
DEFAULT = ("chat", "code", "math")


def load_suite(names=DEFAULT, per_category: int | None = None) -> list[dict]:
    """Prompts of bundled categories or of JSON-lines files, evenly spread over each, at most `per_category` of each."""
    prompts = []
    for name in names:
        if name not in SUITES and not Path(name).is_file():
            raise ValueError(f"no category or file is called {name!r}; take of {', '.join(SUITES)}, or give a .jsonl file")
        rows, _ = read_prompts(bundled_prompts(SUITES[name]) if name in SUITES else name)
        prompts += evenly_spread(rows, per_category)
    return prompts


def first_turn_ids(tokenizer, prompt: dict):
    """The prompt's first user turn as the model would be asked it: `{"input_ids", "attention_mask"}` [1, S]."""
    chat_template(tokenizer)  # refuses a tokenizer without one
    messages = [{"role": "user", "content": prompt["turns"][0]}]
    if prompt.get("system"):
        messages.insert(0, {"role": "system", "content": prompt["system"]})
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
