"""What a dataset becomes: rendered, numbered, and what is unusable is named."""

import pytest
from tiny import word_tokenizer

from eagle_hf import Eagle3Trainer
from eagle_hf.training.batches import collate


@pytest.fixture
def tokenizer():
    return word_tokenizer()


@pytest.fixture
def trainer_of(target, head, arguments, tmp_path):
    """trainer_of(rows, tokenizer=None, **overrides) -> a trainer that has not trained yet."""

    def make(rows, tokenizer=None, **overrides):
        return Eagle3Trainer(
            model=head,
            target=target,
            args=arguments(tmp_path, **overrides),
            train_dataset=rows,
            processing_class=tokenizer,
        )

    return make


def conversation(answer, question="w5 w6"):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def test_a_dataset_column_called_index_is_harmless(examples, trainer_of):
    trainer = trainer_of([{**example, "index": 0} for example in examples])
    assert [row["index"] for row in trainer.train_dataset] == list(range(20))


def test_unusable_tokenised_rows_are_skipped_and_reported(examples, trainer_of):
    rows = [
        *examples[:3],
        {"input_ids": [5] * 9, "loss_mask": [0] * 9},
        {"input_ids": [5] * 9, "loss_mask": [1]},
        examples[-1],
    ]
    trainer = trainer_of(rows, max_length=30)
    assert len(trainer.train_dataset) == 3
    assert [skip.id for skip in trainer.skipped] == ["row-3", "row-4", "c19"]
    with pytest.raises(ValueError, match="none of 1 tokenised conversations is usable"):
        trainer_of(rows[3:4])


def test_conversations_are_rendered_and_unusable_ones_reported(tokenizer, trainer_of):
    rows = [conversation("w7 w8 w9")] * 3 + [conversation("w7 " * 600), {"messages": []}]
    trainer = trainer_of(rows, tokenizer)
    assert len(trainer.train_dataset) == 3
    assert len(trainer.skipped) == 2
    example = trainer.train_dataset[0]
    assert example["input_ids"][example["loss_mask"]].tolist() == [7, 8, 9, 2]
    assert "max_length is 512" in trainer.skipped[0].reason


def test_the_arguments_choose_the_answers_and_the_variables_of_the_template(tokenizer, trainer_of):
    tokenizer.chat_template = "{{ mood }} " + tokenizer.chat_template
    messages = conversation("w7 w8")["messages"] + conversation("w9")["messages"]
    settings = {"train_on": "last_turn", "chat_template_kwargs": '{"mood": "w11"}'}
    trainer = trainer_of([{"messages": messages}], tokenizer, **settings)
    (example,) = trainer.train_dataset
    assert example["input_ids"][0] == 11
    assert example["input_ids"][example["loss_mask"]].tolist() == [9, 2]
    with pytest.raises(ValueError, match="train_on is 'first'; choose one of all, last_turn"):
        trainer_of([{"messages": messages}], tokenizer, train_on="first")


def test_conversations_without_a_tokenizer_or_template_are_refused(tokenizer, trainer_of):
    rows = [conversation("w7 w8")]
    with pytest.raises(ValueError, match="processing_class"):
        trainer_of(rows)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="chat template"):
        trainer_of(rows, tokenizer)


def test_an_all_zero_mask_is_refused():
    with pytest.raises(ValueError, match="loss masks"):
        collate([{"input_ids": [5, 6, 7], "loss_mask": [0, 0, 0]}])
