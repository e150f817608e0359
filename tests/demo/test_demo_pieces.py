"""Tokens become text one by one, also where a character takes several."""

import pytest
from tiny import word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eagle_hf.demo.pieces import TextPieces


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and <end> as a special one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: token for token, letter in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    return tokenizer


def added(tokenizer, tokens):
    pieces = TextPieces(tokenizer)
    return [pieces.add(token) for token in tokens], pieces.rest()


def test_a_character_comes_with_its_last_token(byte_tokenizer):
    tokens = byte_tokenizer("a\u20acb").input_ids
    assert added(byte_tokenizer, tokens) == (["a", "", "", "\u20ac", "b"], "")


def test_a_character_that_never_ends_is_the_rest(byte_tokenizer):
    tokens = byte_tokenizer("a\U0001f600").input_ids
    assert added(byte_tokenizer, tokens[:-1]) == (["a", "", "", ""], "\ufffd")


def test_special_tokens_add_nothing(byte_tokenizer):
    tokens = byte_tokenizer("ab").input_ids
    pieces, rest = added(byte_tokenizer, [tokens[0], byte_tokenizer.eos_token_id, tokens[1]])
    assert (pieces, rest) == (["a", "", "b"], "")


def test_words_keep_the_spaces_between_them_across_a_special_token():
    pieces, rest = added(word_tokenizer(), [7, 8, 2, 9])
    assert (pieces, rest) == (["w7", " w8", "", " w9"], "")
