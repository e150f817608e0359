"""A streaming dataset trains as a list does, begins again, and is resumed to the bit."""

import pytest
from datasets import IterableDataset
from tiny import tiny_head, word_tokenizer
from torch.utils.data import DataLoader
from training_checks import evaluations, losses, same_weights

from eagle_hf import Eagle3Trainer
from eagle_hf.data.examples.streams import StreamedExamples


def stream_of(rows):
    """The rows as a streaming dataset."""

    def read():
        yield from rows

    return IterableDataset.from_generator(read)


@pytest.fixture
def rows(examples):
    """The examples without their ids."""
    return [{"input_ids": e["input_ids"], "loss_mask": e["loss_mask"]} for e in examples]


@pytest.fixture
def trainer_of(target, head, arguments, tmp_path):
    """trainer_of(rows, tokenizer, **overrides) -> a trainer of a stream, before training."""

    def make(rows, tokenizer, **overrides):
        return Eagle3Trainer(
            model=head,
            target=target,
            args=arguments(tmp_path, **overrides),
            train_dataset=stream_of(rows),
            processing_class=tokenizer,
        )

    return make


def test_a_streaming_dataset_trains_as_a_list_in_its_order(target, rows, trained, tmp_path):
    settings = dict(logging_steps=1, train_sampling_strategy="sequential")
    listed = trained(target, tiny_head(target), rows, tmp_path, **settings)
    streamed = trained(target, tiny_head(target), stream_of(rows), tmp_path, logging_steps=1)
    assert losses(listed) == pytest.approx(losses(streamed), rel=1e-6)
    assert streamed.model.config.eagle_hf["trained_length"] == 39


def test_a_stream_begins_again_and_is_resumed_to_the_bit(target, examples, trained, tmp_path):
    """Five steps a pass."""
    saving = dict(save_strategy="steps", save_steps=1, max_steps=9)

    def run(folder, resume=None):
        stream = stream_of(examples).shuffle(seed=1, buffer_size=8)
        head = tiny_head(target)
        return trained(target, head, stream, tmp_path / folder, resume=resume, **saving)

    whole = run("a")
    for step in (3, 5, 7):
        resumed = run(f"b{step}", resume=str(tmp_path / "a" / f"checkpoint-{step}"))
        assert same_weights(whole.model, resumed.model), step


class Conversations:
    """Twelve tokenised rows that can be read again."""

    def __iter__(self):
        for i in range(12):
            yield {"id": str(i), "input_ids": [5, 6, 7, 8], "loss_mask": [0, 0, 1, 1]}


def test_workers_share_a_plain_stream():
    def use_all(rows):
        return rows, []

    stream = StreamedExamples(Conversations(), use_all, [])
    ids = []
    for batch in DataLoader(stream, batch_size=2, num_workers=2, collate_fn=list):
        ids += [row["id"] for row in batch]
    assert sorted(ids, key=int) == [str(i) for i in range(12)]


def test_a_stream_of_conversations_needs_a_tokenizer(trainer_of):
    with pytest.raises(ValueError, match="without processing_class"):
        trainer_of([{"messages": []}], None)


def test_a_stream_without_a_usable_row_is_refused(trainer_of):
    trainer = trainer_of([{"messages": []}] * 3, word_tokenizer())
    with pytest.raises(ValueError, match="no row of the stream is usable .row-0"):
        trainer.train()


def test_a_streamed_evaluation_set_has_a_tau(target, head, examples, rows, trained, tmp_path):
    held_out = rows[:6]
    trainer = trained(
        target,
        head,
        examples,
        tmp_path,
        eval_dataset=stream_of(held_out),
        eval_strategy="steps",
        eval_steps=3,
        eval_prompts=2,
        eval_new_tokens=6,
    )
    logs = evaluations(trainer)
    assert len(logs) == 2
    assert all(log["eval_tau"] >= 1 for log in logs)
    assert trainer.evaluate(held_out)["eval_loss"] == pytest.approx(logs[-1]["eval_loss"], rel=1e-6)


def test_streamed_conversations_are_rendered_and_unusable_ones_reported(trainer_of):
    messages = [{"role": "user", "content": "w5 w6"}, {"role": "assistant", "content": "w7 w8 w9"}]
    rows = [{"messages": messages}, {"messages": []}] * 8
    trainer = trainer_of(rows, word_tokenizer(), max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.skipped
    unusable = {f"row-{i}" for i in range(1, 16, 2)}
    assert {skip.id for skip in trainer.skipped} <= unusable
