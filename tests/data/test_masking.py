"""The mask: which tokens are learnt, to the token, on both ends."""

from typing import Any

import pytest
from transformers import GenerationConfig

from eagle_hf.data.examples.masking import (
    count_response_tokens,
    eos_token_ids,
    tokenize_conversations,
)
from eagle_hf.data.examples.tokenised_rows import usable_examples
from eagle_hf.data.examples.viewer import show_mask
from eagle_hf.data.rows import Message

START, END, NEWLINE = 256, 257, 10
HI: list[Message] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def render(tokenizer, messages, eos_token_ids, max_length=None):
    """(ids, mask) of a conversation that becomes one example."""
    (example,), _ = tokenize_conversations(
        [{"messages": messages}], tokenizer, eos_token_ids=eos_token_ids, max_length=max_length
    )
    return example["input_ids"], example["loss_mask"]


def ids_of(text):
    return list(text.encode())


def test_mask_covers_the_response_and_its_end_of_turn_token_only(tokenizer):
    ids, mask = render(tokenizer, HI, eos_token_ids={END})
    prompt = [START, *ids_of("user\nhi"), END, NEWLINE, START, *ids_of("assistant\n")]
    assert ids == [*prompt, ord("y"), ord("o"), END, NEWLINE]
    assert mask == [0] * len(prompt) + [1, 1, 1, 0]


def test_every_assistant_turn_is_learnt(tokenizer):
    turns: list[Any] = [
        *HI,
        {"role": "user", "content": "and"},
        {"role": "assistant", "content": "so"},
    ]
    ids, mask = render(tokenizer, turns, eos_token_ids={END})
    learnt = [token for token, bit in zip(ids, mask, strict=True) if bit]
    assert learnt == [*ids_of("yo"), END, *ids_of("so"), END]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(turns, tokenize=False)


def test_prompt_tokens_are_those_generate_sees(tokenizer):
    ids, mask = render(tokenizer, HI, eos_token_ids={END})
    prompt = tokenizer.apply_chat_template(HI[:1], add_generation_prompt=True, tokenize=False)
    assert ids[: mask.index(1)] == tokenizer.encode(prompt, add_special_tokens=False)


def test_response_without_end_of_turn_token_is_learnt_whole(tokenizer):
    _, mask = render(tokenizer, HI, eos_token_ids={5})
    assert mask[-4:] == [1, 1, 1, 1]
    assert sum(mask) == 4


def test_template_whose_answer_does_not_follow_its_prompt_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(
        ValueError, match="assistant message 1 does not follow .*generation prompt.*thinking mode"
    ):
        render(tokenizer, HI, eos_token_ids={END})


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (HI[:1], "no assistant turn among the roles"),
        ([*HI, HI[0]], "the last message is from 'user'"),
        (HI[1:], "the first message is from the assistant"),
        (
            [HI[0], {"role": "assistant", "content": ""}],
            "assistant message 1 has zero response tokens",
        ),
        (
            [HI[0], {"role": "assistant", "content": None}],
            "message 1 holds .*NoneType.* content text or a list of parts",
        ),
        (["hi"], "message 0 is of type str"),
        ([], "messages is an empty list"),
        (None, "messages is of type NoneType"),
    ],
)
def test_unusable_conversation_is_refused_with_the_reason(tokenizer, messages, text):
    with pytest.raises(ValueError, match=text):
        render(tokenizer, messages, eos_token_ids={END})


def test_conversation_longer_than_max_length_is_refused_with_both_lengths(tokenizer):
    length = len(render(tokenizer, HI, eos_token_ids={END}, max_length=25)[0])
    assert length == 10 + 11 + 4
    with pytest.raises(ValueError, match="has 25 tokens and max_length is 24"):
        render(tokenizer, HI, eos_token_ids={END}, max_length=24)


def test_what_the_template_refuses_is_a_value_error_with_the_roles(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(ValueError, match=r"\['user'\]: no system here"):
        render(tokenizer, HI, eos_token_ids={END})


def test_tokenizer_without_chat_template_is_refused_with_the_remedy(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="set tokenizer.chat_template or use the instruct model"):
        render(tokenizer, HI, eos_token_ids={END})


def test_eos_ids_join_generation_config_and_tokenizer(target, tokenizer):
    target.generation_config = GenerationConfig(eos_token_id=[5, 7])
    assert eos_token_ids(target, tokenizer) == {5, 7, END}
    target.generation_config = GenerationConfig(eos_token_id=5)
    assert eos_token_ids(target, tokenizer) == {5, END}


def test_target_without_any_eos_is_refused(target, tokenizer):
    target.generation_config = GenerationConfig()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="names an end-of-turn token"):
        eos_token_ids(target, tokenizer)


def test_bad_rows_are_reported_and_the_others_tokenized(tokenizer):
    rows = [{"id": "a", "messages": HI}, {"id": "b", "messages": HI[:1]}, {"messages": "x"}, 3]
    examples, skipped = tokenize_conversations(rows, tokenizer, eos_token_ids={END}, max_length=99)
    assert [example["id"] for example in examples] == ["a"]
    assert [row.id for row in skipped] == ["b", "row-2", "row-3"]
    assert "no assistant turn" in skipped[0].reason
    assert "of type int" in skipped[2].reason


def test_no_usable_row_is_refused_with_the_first_reason(tokenizer):
    with pytest.raises(
        ValueError, match="none of 1 conversations is usable .*a: .*max_length is 3"
    ):
        tokenize_conversations(
            [{"id": "a", "messages": HI}], tokenizer, eos_token_ids={END}, max_length=3
        )


def test_only_learnt_tokens_are_counted():
    examples = [{"id": "a", "input_ids": [1, 2, 2, 3], "loss_mask": [0, 1, 1, 1]}]
    examples += [{"id": "b", "input_ids": [3, 4], "loss_mask": [1, 0]}]
    assert count_response_tokens(examples, 6).tolist() == [0, 0, 2, 2, 0, 0]
    with pytest.raises(ValueError, match="'a' holds token 3, but vocab_size is 3"):
        count_response_tokens(examples, 3)


def test_tokenized_row_lacking_ids_or_mask_is_skipped_with_both_counts():
    good = {"input_ids": [1, 2, 3], "loss_mask": [0, 0, 1]}
    rows = [good, {"input_ids": [1, 2]}, {"loss_mask": [1]}]
    examples, skipped = usable_examples(rows, max_length=None)
    assert examples == [good]
    assert [row.id for row in skipped] == ["row-1", "row-2"]
    assert skipped[0].reason.startswith("2 input_ids and no loss_mask values")
    assert skipped[1].reason.startswith("no input_ids and 1 loss_mask values")


def test_mask_viewer_colours_learnt_text_green(tokenizer):
    shown = show_mask(tokenizer, [*ids_of("abc"), END], [0, 1, 1, 0])
    assert shown == "\x1b[2ma\x1b[0m\x1b[32mbc\x1b[0m\x1b[2m<|im_end|>\x1b[0m"
    with pytest.raises(ValueError, match="2 input_ids and 1 mask values"):
        show_mask(tokenizer, [1, 2], [1])
