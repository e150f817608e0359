"""One prelude for all: rows and a target in, examples out."""

from typing import Any

import pytest
from transformers import BloomConfig, BloomForCausalLM, GenerationConfig

from eagle_hf.data import prepare_examples

END = 257
LIMIT = 256  # max_position_embeddings of the target in conftest.py


def conversation(answer="yo", **extra):
    question = {"role": "user", "content": "hi"}
    return {"messages": [question, {"role": "assistant", "content": answer}], **extra}


def tokenized(length, **extra):
    return {"input_ids": [5] * length, "loss_mask": [1] * length, **extra}


def test_conversations_become_examples(target, tokenizer):
    examples, skipped = prepare_examples(target, tokenizer, [conversation(id="a")])
    learnt_ids = [*b"yo", END]
    assert skipped == []
    assert examples[0]["id"] == "a"
    assert examples[0]["input_ids"][-4:] == [*learnt_ids, ord("\n")]
    assert examples[0]["loss_mask"][-5:] == [0, 1, 1, 1, 0]


def test_skipped_rows_come_back_with_their_reason(target, tokenizer):
    rows: list[Any] = [{"messages": []}, conversation(), 3]
    examples, skipped = prepare_examples(target, tokenizer, rows)
    assert [example["id"] for example in examples] == ["row-1"]
    assert [row.id for row in skipped] == ["row-0", "row-2"]
    assert skipped[0].reason.startswith("messages is an empty list")


def test_limit_is_the_targets_where_none_is_given(target, tokenizer):
    rows = [conversation(), conversation("y" * LIMIT, id="long")]
    _, skipped = prepare_examples(target, tokenizer, rows)
    assert skipped[0].id == "long"
    assert f"max_length is {LIMIT}" in skipped[0].reason


def test_max_length_overrides_the_targets_limit(target, tokenizer):
    rows = [conversation(), conversation("y" * LIMIT)]
    examples, skipped = prepare_examples(target, tokenizer, rows, max_length=2 * LIMIT)
    assert len(examples) == 2
    assert skipped == []


@pytest.mark.parametrize("row", [conversation("y" * LIMIT), tokenized(2 * LIMIT)])
def test_target_without_a_limit_sets_none(tokenizer, row):
    # ALiBi needs no table of positions, so Bloom's config names no limit.
    bloom = BloomForCausalLM(BloomConfig(vocab_size=258, hidden_size=16, n_layer=1, n_head=2))
    examples, _ = prepare_examples(bloom, tokenizer, [row])
    assert len(examples[0]["input_ids"]) > LIMIT


def test_turns_end_at_any_token_the_target_stops_at(target, tokenizer):
    target.generation_config = GenerationConfig(eos_token_id=[ord("o"), END])
    examples, _ = prepare_examples(target, tokenizer, [conversation()])
    assert sum(examples[0]["loss_mask"]) == 2  # "y" and "o": the turn is over


def test_tokenized_rows_pass_through_without_a_tokenizer(target):
    rows = [tokenized(9, id="a", source="mine"), tokenized(LIMIT + 1)]
    examples, skipped = prepare_examples(target, None, rows)
    assert examples == [rows[0]]
    assert skipped[0].id == "row-1"


def test_conversations_without_a_tokenizer_are_refused(target):
    with pytest.raises(ValueError, match="tokenizer is None; pass the target's own"):
        prepare_examples(target, None, [conversation()])


def test_no_rows_are_refused(target, tokenizer):
    with pytest.raises(ValueError, match="none of 0 conversations is usable .there were no rows"):
        prepare_examples(target, tokenizer, [])


def test_rows_that_can_be_read_once_only_are_all_read(target, tokenizer):
    rows = iter([conversation(id="a"), conversation(id="b")])
    examples, _ = prepare_examples(target, tokenizer, rows)
    assert [example["id"] for example in examples] == ["a", "b"]


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_are_prepared_as_lists_are(target, tokenizer, streaming):
    rows = [conversation(id="a"), conversation("yes", id="b")]
    dataset = pytest.importorskip("datasets").Dataset.from_list(rows)
    if streaming:
        dataset = dataset.to_iterable_dataset()
    expected = prepare_examples(target, tokenizer, rows)
    assert prepare_examples(target, tokenizer, dataset) == expected


def test_adapted_target_is_asked_like_the_plain_one(target, tokenizer):
    peft = pytest.importorskip("peft")
    rows = [conversation(), conversation("y" * LIMIT)]
    expected = prepare_examples(target, tokenizer, rows)
    adapted = peft.get_peft_model(target, peft.LoraConfig(target_modules=["q_proj"], r=2))
    assert prepare_examples(adapted, tokenizer, rows) == expected


def test_verbose_prints_how_many_are_used_and_skipped(target, tokenizer, capsys):
    prepare_examples(target, tokenizer, [conversation()], verbose=True)
    assert capsys.readouterr().out == "1 examples, 0 skipped\n"
    rows: list[Any] = [conversation(), 3]
    prepare_examples(target, tokenizer, rows, verbose=True)
    printed = capsys.readouterr().out
    assert printed.startswith("1 examples, 1 skipped, the first: the row is of type int")
