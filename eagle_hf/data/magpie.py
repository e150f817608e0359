"""Magpie (arXiv 2406.08464): the target writes its own user turns.

Rendered up to the place where a user turn begins, an aligned model continues with a plausible user
turn and ends it. No licence or privacy question, unlimited, and the target's own idea of a prompt.
Deviation: one batch is filtered as it comes (length, mostly printable ASCII, duplicates by normalised
text); the paper's quality and difficulty ratings need a larger judge.
"""

import re
from collections import Counter
from collections.abc import Sequence

from tqdm.auto import tqdm

from eagle_hf.data.masking import eos_token_ids
from eagle_hf.data.sampling import batch_seed, generate_batch
from eagle_hf.data.template import user_turn_prefix

SHORTEST_WORDS = 3
ASCII_SHARE = 0.9
REJECTED_PER_PROMPT = 20
TOPIC_HINT = "You are a helpful assistant. The user asks about {topic}."


def magpie_prompts(
    target,
    tokenizer,
    count: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 50,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    topics: Sequence[str] | None = None,
) -> list[dict]:
    """`count` user turns sampled from the target, the same ones for one seed and batch size.

    `topics` take turns as a hint in the system message and become the prompts' category. After more than
    20 rejected samples per prompt asked for, ValueError with what was accepted and why the rest was not.
    The tail is cut by `top_k`: `top_p` sorts the vocabulary for every token, which on a CPU costs more than
    a small target's forward.
    """
    _check_settings(count, temperature, batch_size, topics)
    names = list(topics) if topics else [None]
    prefixes = {name: _prefix_ids(tokenizer, name) for name in names}
    stop = eos_token_ids(target, tokenizer)
    prompts, seen, rejected, drawn = [], set(), Counter(), 0
    with tqdm(total=count, desc="user turns", unit="prompt") as progress:
        while len(prompts) < count:
            _check_patience(len(prompts), count, rejected)
            batch = [names[(drawn + row) % len(names)] for row in range(batch_size)]
            drawn += batch_size
            sampled = generate_batch(
                target,
                [prefixes[name] for name in batch],
                eos_token_ids=stop,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=batch_seed(seed, "magpie", drawn),
            )
            before = len(prompts)
            for name, ids in zip(batch, sampled, strict=True):
                text = tokenizer.decode(ids, skip_special_tokens=True).strip()
                reason = "no end of turn" if ids[-1] not in stop else reject_reason(text, seen)
                if reason:
                    rejected[reason] += 1
                elif len(prompts) < count:
                    seen.add(normalised(text))
                    prompts.append(_prompt(f"magpie/{seed}/{len(prompts)}", text, name))
            progress.update(len(prompts) - before)
    return prompts


def reject_reason(text: str, seen: set[str]) -> str | None:
    """Why a sampled user turn is not kept; None when it is."""
    if len(text.split()) < SHORTEST_WORDS:
        return "too short"
    if not all(letter.isprintable() or letter in "\n\t" for letter in text):
        return "unprintable"
    if sum(letter.isascii() for letter in text) < ASCII_SHARE * len(text):
        return "not mostly ASCII"
    return "duplicate" if normalised(text) in seen else None


def normalised(text: str) -> str:
    """The text without case, punctuation and spacing: equal for near-identical turns."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _prompt(id: str, text: str, topic: str | None) -> dict:
    return {"id": id, "turns": [text], "category": topic or "chat", "source": "magpie"}


def _prefix_ids(tokenizer, topic: str | None) -> list[int]:
    prefix = user_turn_prefix(tokenizer, TOPIC_HINT.format(topic=topic) if topic else None)
    return tokenizer.encode(prefix, add_special_tokens=False)


def _check_settings(count: int, temperature: float, batch_size: int, topics) -> None:
    if count < 1 or batch_size < 1:
        raise ValueError(
            f"count is {count} and batch_size is {batch_size}; both must be at least 1"
        )
    if temperature <= 0:
        raise ValueError(
            f"temperature is {temperature}, which gives one user turn only; take one above 0, say 1.0"
        )
    if isinstance(topics, str):
        raise ValueError(f"topics is the text {topics!r}; pass a list, [{topics!r}]")


def _check_patience(accepted: int, count: int, rejected: Counter) -> None:
    if rejected.total() > REJECTED_PER_PROMPT * count:
        reasons = ", ".join(f"{reason}: {number}" for reason, number in rejected.most_common())
        raise ValueError(
            f"{accepted} of {count} user turns were accepted and {rejected.total()} samples rejected ({reasons}); "
            "ask for fewer, raise max_new_tokens, add topics, or use an instruct model"
        )
