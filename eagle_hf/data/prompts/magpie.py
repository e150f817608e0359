"""Magpie (arXiv 2406.08464): the target writes its own user turns.

Given a rendered text that stops where a user turn begins, an aligned model continues with a
plausible user turn and ends it. Such prompts raise no question of licence or privacy, there are as
many as one wants, and they are the target's own idea of a prompt.

Deviation: samples are filtered as they come (length, mostly printable ASCII, duplicates by
normalized text). The paper's ratings of quality and difficulty need a larger judge.
"""

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle_hf.data.answers.sampling import batch_seed, generate_batch
from eagle_hf.data.examples.masking import eos_token_ids
from eagle_hf.data.rows import Prompt
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import chat_template, decode_text, user_turn_prefix

SHORTEST_WORDS = 3
ASCII_SHARE = 0.9
REJECTED_PER_PROMPT = 20
TOPIC_HINT = "You are a helpful assistant. The user asks about {topic}."


def magpie_prompts(
    target: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 50,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    topics: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    template_arguments: TemplateArguments | None = None,
) -> list[Prompt]:
    """Sample user turns from the target; one seed and batch size always give the same ones.

    Args:
        target: an instruct model.
        tokenizer: its tokenizer, with a chat template.
        count: how many prompts to return.
        seed: of all sampling; the caller's random state is left alone.
        temperature: above 0.
        top_p: nucleus sampling. It sorts the vocabulary for every token, which on a CPU costs more
            than a small target's forward pass.
        top_k: cuts the tail instead, at little cost.
        max_new_tokens: longest user turn; a sample that has not ended by then is rejected.
        batch_size: user turns that are sampled together.
        topics: take turns as a hint in the system message, and become the prompts' category. A
            mapping from categories to topics, such as `TOPIC_SEEDS`, gives every category
            about the same number of turns.
        template_arguments: variables of the chat template, and its date. Default: none, today.

    Returns:
        `count` prompts of one turn each, with the ids "magpie/SEED/0", "magpie/SEED/1", ...

    Raises:
        ValueError: settings that cannot work, a variable that the template never reads, a template
            without a user turn to continue, or more than 20 rejected samples for each prompt asked
            for. The error counts the reasons.
    """
    _check_settings(count, temperature, batch_size, topics)
    arguments = template_arguments or TemplateArguments()
    arguments.check_read_by(chat_template(tokenizer, arguments.tools))
    hints = _hints(topics)
    prefixes = {hint.topic: _prefix_ids(tokenizer, hint.topic, arguments) for hint in hints}
    stop = eos_token_ids(target, tokenizer)
    turn_filter = _TurnFilter(tokenizer, stop)
    prompts: list[Prompt] = []
    drawn = 0
    with tqdm(total=count, desc="user turns", unit="prompt") as progress:
        while len(prompts) < count:
            _check_patience(len(prompts), count, turn_filter.rejected)
            # 1) Sample one user turn for each row of the batch; topics go round over all batches.
            batch = [hints[(drawn + row) % len(hints)] for row in range(batch_size)]
            drawn += batch_size
            samples = generate_batch(
                target,
                [prefixes[hint.topic] for hint in batch],
                eos_token_ids=stop,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=batch_seed(seed, "magpie", drawn),
            )
            # 2) Use those that pass, as many as are still missing.
            for hint, ids in zip(batch, samples, strict=True):
                text = turn_filter.accept(ids)
                if text is not None and len(prompts) < count:
                    turn_filter.remember(text)
                    prompts.append(_prompt(f"magpie/{seed}/{len(prompts)}", text, hint))
                    progress.update()
    return prompts


class _TurnFilter:
    """Accepts or rejects sampled user turns, and counts why they are rejected."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Container[int]):
        self.rejected: Counter[str] = Counter()
        self._tokenizer = tokenizer
        self._stop = stop
        self._known: set[str] = set()  # normalized texts of the turns that are used

    def accept(self, ids: list[int]) -> str | None:
        """The text of a sample that passes; None for one that is rejected and counted."""
        text = decode_text(self._tokenizer, ids).strip()
        # A turn that max_new_tokens cut is half a thought.
        has_ended = ids[-1] in self._stop
        reason = reject_reason(text, self._known) if has_ended else "no end of turn"
        if reason is None:
            return text
        self.rejected[reason] += 1
        return None

    def remember(self, text: str) -> None:
        """Reject near-identical turns from now on."""
        self._known.add(normalize(text))


def reject_reason(text: str, known: Container[str]) -> str | None:
    """Why a user turn is rejected, given the normalized texts of others; None where it is not."""
    if len(text.split()) < SHORTEST_WORDS:
        return "too short"
    # Control characters and broken UTF-8: the sample went astray.
    if not all(letter.isprintable() or letter in "\n\t" for letter in text):
        return "unprintable"
    ascii_letters = sum(letter.isascii() for letter in text)
    if ascii_letters < ASCII_SHARE * len(text):
        return "not mostly ASCII"
    if normalize(text) in known:
        return "duplicate"
    return None


def normalize(text: str) -> str:
    """The text without case, punctuation and spacing: equal for near-identical turns."""
    return " ".join(re.findall(r"\w+", text.casefold()))


class _Hint(NamedTuple):
    """What the system message names, None for none, and the category of what is then asked."""

    topic: str | None
    category: str


def _hints(topics: Sequence[str] | Mapping[str, Sequence[str]] | None) -> list[_Hint]:
    """The hints in the order in which they take turns: one of each category, then the next."""
    if not topics:
        return [_Hint(None, "chat")]
    if not isinstance(topics, Mapping):
        return [_Hint(topic, topic) for topic in topics]
    hints = []
    for number in range(max(len(own) for own in topics.values())):
        for category, own in topics.items():
            hints.append(_Hint(own[number % len(own)], category))
    return hints


def _prompt(id: str, text: str, hint: _Hint) -> Prompt:
    """A sampled user turn as a prompt."""
    return {"id": id, "turns": [text], "category": hint.category, "source": "magpie"}


def _prefix_ids(
    tokenizer: PreTrainedTokenizerBase, topic: str | None, arguments: TemplateArguments
) -> list[int]:
    """Tokens of the text that stops where a user turn begins."""
    system = TOPIC_HINT.format(topic=topic) if topic else None
    prefix = user_turn_prefix(tokenizer, system, arguments)
    return tokenizer.encode(prefix, add_special_tokens=False)


def _check_settings(
    count: int,
    temperature: float,
    batch_size: int,
    topics: Sequence[str] | Mapping[str, Sequence[str]] | None,
) -> None:
    """Refuse settings that cannot work."""
    if count < 1 or batch_size < 1:
        raise ValueError(
            f"count is {count} and batch_size is {batch_size}; both must be at least 1"
        )
    if temperature <= 0:
        raise ValueError(
            f"temperature is {temperature}, which gives one user turn only; "
            "take one above 0, say 1.0"
        )
    if isinstance(topics, str):
        raise ValueError(f"topics is the text {topics!r}; pass a list, [{topics!r}]")
    if isinstance(topics, Mapping):
        for category, own in topics.items():
            if isinstance(own, str) or not own:
                raise ValueError(f"the topics of {category!r} are {own!r}; pass a list of topics")


def _check_patience(accepted: int, count: int, rejected: Counter[str]) -> None:
    """Give up where most samples are rejected: the target or the settings do not suit Magpie."""
    if rejected.total() <= REJECTED_PER_PROMPT * count:
        return
    reasons = ", ".join(f"{reason}: {number}" for reason, number in rejected.most_common())
    raise ValueError(
        f"{accepted} of {count} user turns were accepted and {rejected.total()} samples rejected "
        f"({reasons}); ask for fewer, raise max_new_tokens, add topics, or use an instruct model"
    )
