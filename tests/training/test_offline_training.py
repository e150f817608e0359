"""Offline features are the target's own states: training on them is training online."""

import pytest
import torch
from datasets import IterableDataset
from tiny import tiny_head, tiny_target, word_tokenizer
from torch.utils.data import DataLoader

from eagle_hf import Eagle3Trainer, Features, capture_features
from eagle_hf.data.streams import StreamedExamples

LAYERS = [2, 3, 4]


@pytest.fixture(scope="module")
def folders(target, examples, tmp_path_factory):
    """Feature folders in three storage types."""
    made = {}
    for dtype in ("float32", "bfloat16", "int8"):
        made[dtype] = tmp_path_factory.mktemp(dtype)
        capture_features(
            target,
            examples,
            made[dtype],
            layer_ids=LAYERS,
            template_sha256="t",
            dtype=dtype,
            shard_bytes=20_000,
            progress=False,
        )
    return made


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss_type": "lk_hybrid"},
        {"packing": True},
        {"learn_prompts": True},
        {"loss_normaliser": "slots"},
    ],
    ids=str,
)
def test_offline_training_is_online_training(
    target, examples, folders, trained, tmp_path, settings
):
    runs = [
        trained(target, tiny_head(target), rows, tmp_path, logging_steps=1, **settings)
        for rows in (examples, Features(folders["float32"]))
    ]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)
    for ours, theirs in zip(*(run.model.parameters() for run in runs)):
        assert (ours - theirs).norm() <= 1e-4 * ours.norm()


@pytest.mark.parametrize("dtype, bound", [("bfloat16", 2e-2), ("int8", 5e-2)])
def test_smaller_storage_types_change_the_loss_a_little(
    target, examples, folders, trained, tmp_path, dtype, bound
):
    exact, stored = (
        trained(target, tiny_head(target), rows, tmp_path, logging_steps=1)
        for rows in (examples, Features(folders[dtype]))
    )
    assert losses(exact) != losses(stored) and losses(exact) == pytest.approx(
        losses(stored), rel=bound
    )


def test_the_target_does_not_run_offline(target, folders, trained, head, tmp_path):
    def refuse(*_):
        raise AssertionError("the target ran")

    handle = target.get_decoder().register_forward_pre_hook(refuse)
    try:
        trained(
            target,
            head,
            Features(folders["float32"]),
            tmp_path,
            dataloader_num_workers=1,
            train_sampling_strategy="group_by_length",
        )
    finally:
        handle.remove()
    assert head.config.eagle_hf["trained_length"] == 39


def test_features_of_something_else_are_refused(target, folders, trained, arguments, tmp_path):
    features = Features(folders["float32"])
    with pytest.raises(ValueError, match="target_weights is .* there and .* now"):
        trained(tiny_target(dtype=torch.float32, seed=5), tiny_head(target), features, tmp_path)
    with pytest.raises(ValueError, match=r"layer_ids is \[2, 3, 4\] there and \[1, 3, 4\] now"):
        trained(
            target, tiny_head(target, eagle_hf={"aux_layer_ids": [1, 3, 4]}), features, tmp_path
        )
    with pytest.raises(ValueError, match="template_sha256 is t there"):
        Eagle3Trainer(
            model=tiny_head(target),
            target=target,
            args=arguments(tmp_path),
            train_dataset=features,
            processing_class=word_tokenizer(),
        )
    with pytest.raises(
        ValueError, match="max_length is 25 but the features hold a conversation of 39 tokens"
    ):
        trained(target, tiny_head(target), features, tmp_path, max_length=25)


def test_a_bfloat16_target_trains_a_float32_head_on_its_features(examples, trained, tmp_path):
    target = tiny_target(dtype=torch.bfloat16)
    capture_features(
        target,
        examples,
        tmp_path / "features",
        layer_ids=LAYERS,
        template_sha256="t",
        progress=False,
    )
    runs = [
        trained(target, tiny_head(target).float(), rows, tmp_path, logging_steps=1)
        for rows in (examples, Features(tmp_path / "features"))
    ]
    assert losses(runs[0]) == pytest.approx(
        losses(runs[1]), rel=1e-3
    )  # batches of other shapes round differently


def test_part_of_a_folder_is_selected(folders):
    features = Features(folders["float32"])
    chosen = features.select([3, 0])
    assert len(chosen) == 2 and chosen.lengths == [features.lengths[3], features.lengths[0]]
    assert torch.equal(chosen[0]["input_ids"], features[3]["input_ids"]) and [
        row["id"] for row in chosen.examples()
    ] == ["c3", "c0"]


def test_a_streaming_dataset_trains_as_a_list_in_its_order(target, examples, trained, tmp_path):
    rows = [{"input_ids": e["input_ids"], "loss_mask": e["loss_mask"]} for e in examples]
    streamed = IterableDataset.from_generator(lambda: iter(rows))
    runs = [
        trained(target, tiny_head(target), source, tmp_path, logging_steps=1, **settings)
        for source, settings in ((rows, {"train_sampling_strategy": "sequential"}), (streamed, {}))
    ]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-6)
    assert runs[1].model.config.eagle_hf["trained_length"] == 39


def test_a_stream_begins_again_and_is_resumed_to_the_bit(target, examples, trained, tmp_path):
    """Five steps a pass."""
    rows = [
        {"id": e["id"], "input_ids": e["input_ids"], "loss_mask": e["loss_mask"]} for e in examples
    ]

    def streamed():
        return IterableDataset.from_generator(lambda: iter(rows)).shuffle(seed=1, buffer_size=8)

    saving = dict(save_strategy="steps", save_steps=1, max_steps=9)
    whole = trained(target, tiny_head(target), streamed(), tmp_path / "a", **saving)
    for step in (3, 5, 7):
        resumed = trained(
            target,
            tiny_head(target),
            streamed(),
            tmp_path / f"b{step}",
            resume=str(tmp_path / "a" / f"checkpoint-{step}"),
            **saving,
        )
        assert all(
            torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters())
        ), step


def test_workers_share_a_plain_stream():
    class Rows:
        def __iter__(self):
            return iter(
                [
                    {"id": str(i), "input_ids": [5, 6, 7, 8], "loss_mask": [0, 0, 1, 1]}
                    for i in range(12)
                ]
            )

    stream = StreamedExamples(Rows(), lambda rows: (rows, []), [])
    ids = [
        row["id"]
        for batch in DataLoader(stream, batch_size=2, num_workers=2, collate_fn=list)
        for row in batch
    ]
    assert sorted(ids, key=int) == [str(i) for i in range(12)]


def test_a_stream_that_cannot_train_is_refused(target, head, arguments, tmp_path):
    def trainer(rows, tokenizer):
        stream = IterableDataset.from_generator(lambda: iter(rows))
        return Eagle3Trainer(
            model=head,
            target=target,
            args=arguments(tmp_path),
            train_dataset=stream,
            processing_class=tokenizer,
        )

    with pytest.raises(ValueError, match="without processing_class"):
        trainer([{"messages": []}], None)
    with pytest.raises(ValueError, match="no row of the stream is usable .row-0"):
        trainer([{"messages": []}] * 3, word_tokenizer()).train()


def test_a_streamed_evaluation_set_has_a_tau(target, head, examples, trained, tmp_path):
    rows = [{"input_ids": e["input_ids"], "loss_mask": e["loss_mask"]} for e in examples[:6]]
    held_out = IterableDataset.from_generator(lambda: iter(rows))
    trainer = trained(
        target,
        head,
        examples,
        tmp_path,
        eval_dataset=held_out,
        eval_strategy="steps",
        eval_steps=3,
        eval_prompts=2,
        eval_new_tokens=6,
    )
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    assert len(logs) == 2 and all(log["eval_tau"] >= 1 for log in logs)
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(logs[-1]["eval_loss"], rel=1e-6)


def test_streamed_conversations_are_rendered_and_unusable_ones_reported(
    target, head, arguments, tmp_path
):
    talk = [{"role": "user", "content": "w5 w6"}, {"role": "assistant", "content": "w7 w8 w9"}]
    rows = [{"messages": talk}, {"messages": []}] * 8
    trainer = Eagle3Trainer(
        model=head,
        target=target,
        args=arguments(tmp_path, max_steps=2),
        train_dataset=IterableDataset.from_generator(lambda: iter(rows)),
        processing_class=word_tokenizer(),
    )
    trainer.train()
    assert (
        trainer.state.global_step == 2
        and {skip.id for skip in trainer.skipped} <= {f"row-{i}" for i in range(1, 16, 2)}
        and trainer.skipped
    )
