"""Rendered text in tokens: what is known of one text is right for another."""

import random

import pytest
from chat_templates import family_tokenizer
from template_archives import ADVICE, TOKENIZERS
from transformers import PreTrainedTokenizerFast

from eagle_hf.data.templates.whole_text import WholeTokenizer

WORDS = (
    "yes",
    " no",
    "\n",
    "\n\n",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_",
    "é",
    "  ",
    "🙂",
    "start|>",
)


def texts(count: int, seed: int) -> list[str]:
    """Texts of special tokens, halves of them, and whitespace."""
    generator = random.Random(seed)
    return ["".join(generator.choices(WORDS, k=generator.randrange(40))) for _ in range(count)]


def check_continued(tokenizer: WholeTokenizer) -> None:
    """Texts that begin alike, read alone and read on from the other."""
    for beginning in texts(40, seed=1):
        for end, other_end in zip(texts(3, seed=2), texts(3, seed=3), strict=True):
            known = tokenizer.read(beginning + end)
            alone = tokenizer.read(beginning + other_end)
            continued = tokenizer.read(beginning + other_end, known)
            assert continued.ids == alone.ids
            for length in range(0, len(alone.text), 7):
                part = alone.text[:length]
                assert continued.tokens_of(part) == alone.tokens_of(part)


@pytest.mark.parametrize("merges", [False, True])
def test_a_text_read_on_from_another_has_the_tokens_of_the_text_alone(merges):
    check_continued(WholeTokenizer(family_tokenizer("qwen2_5", merges=merges)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama3_1", "gptoss"])
def test_a_real_tokenizer_reads_on_as_it_reads_alone(name):
    if not (TOKENIZERS / name).is_dir():
        pytest.skip(f"the tokenizer of {name} is not at hand; {ADVICE}")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TOKENIZERS / name)
    if name != "qwen3":
        tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    check_continued(WholeTokenizer(tokenizer))


def test_a_text_is_not_tokenised_twice_where_it_begins_like_another(monkeypatch):
    tokenizer = WholeTokenizer(family_tokenizer("qwen2_5"))
    known = tokenizer.read("<|im_start|>one<|im_end|><|im_start|>two<|im_end|>three")
    lengths = []
    tokenised = tokenizer._tokenised

    def counted(text):
        lengths.append(len(text))
        return tokenised(text)

    monkeypatch.setattr(tokenizer, "_tokenised", counted)
    tokenizer.read(known.text + " and more", known)
    assert lengths == [len("<|im_end|>three and more")] or lengths == [
        len("<|im_start|>two<|im_end|>three and more")
    ]
