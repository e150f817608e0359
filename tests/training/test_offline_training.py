"""Offline features are the target's own states: training on them is training online."""

import pytest
import torch
from engine_folders import play_the_engine
from tiny import tiny_head, tiny_target, word_tokenizer
from training_checks import assert_close_weights, losses

from eagle_hf import Eagle3Trainer
from eagle_hf.data import EngineStates, Features, capture_features, write_engine_request

LAYERS = [2, 3, 4]


def captured(target, examples, folder, dtype="float32", source=None):
    """The features of the examples, in shards of a few conversations."""
    capture_features(
        target,
        examples,
        folder,
        layer_ids=LAYERS,
        template_sha256="t",
        dtype=dtype,
        shard_bytes=20_000,
        progress=False,
        source=source,
    )
    return Features(folder)


@pytest.fixture(scope="module")
def features(target, examples, tmp_path_factory):
    return captured(target, examples, tmp_path_factory.mktemp("float32"))


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
    target, examples, features, trained, tmp_path, settings
):
    settings = {"logging_steps": 1} | settings
    online = trained(target, tiny_head(target), examples, tmp_path, **settings)
    offline = trained(target, tiny_head(target), features, tmp_path, **settings)
    assert losses(online) == pytest.approx(losses(offline), rel=1e-5)
    assert_close_weights(online.model, offline.model, 1e-4)


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_training_on_an_engines_states_is_training_online(
    examples, trained, tmp_path, dtype, bound
):
    target = tiny_target(dtype=getattr(torch, dtype))
    write_engine_request(target, examples, tmp_path / "engine", layer_ids=LAYERS)
    play_the_engine(target, tmp_path / "engine")
    source = EngineStates(tmp_path / "engine")
    features = captured(target, examples, tmp_path / "features", dtype, source)
    online = trained(target, tiny_head(target).float(), examples, tmp_path, logging_steps=1)
    offline = trained(target, tiny_head(target).float(), features, tmp_path, logging_steps=1)
    assert losses(online) == pytest.approx(losses(offline), rel=bound)


@pytest.mark.parametrize("dtype, bound", [("bfloat16", 2e-2), ("int8", 5e-2)])
def test_smaller_storage_types_change_the_loss_a_little(
    target, examples, trained, tmp_path, dtype, bound
):
    features = captured(target, examples, tmp_path / "features", dtype)
    exact = trained(target, tiny_head(target), examples, tmp_path, logging_steps=1)
    stored = trained(target, tiny_head(target), features, tmp_path, logging_steps=1)
    assert losses(exact) != losses(stored)
    assert losses(exact) == pytest.approx(losses(stored), rel=bound)


def test_the_target_does_not_run_offline(target, features, trained, head, tmp_path):
    def refuse(*_):
        raise AssertionError("the target ran")

    settings = dict(dataloader_num_workers=1, train_sampling_strategy="group_by_length")
    handle = target.get_decoder().register_forward_pre_hook(refuse)
    try:
        trained(target, head, features, tmp_path, **settings)
    finally:
        handle.remove()
    assert head.config.eagle_hf["trained_length"] == 39


def test_features_of_another_target_are_refused(target, features, trained, tmp_path):
    other = tiny_target(dtype=torch.float32, seed=5)
    with pytest.raises(ValueError, match="target_weights is .* there and .* now"):
        trained(other, tiny_head(target), features, tmp_path)


def test_features_of_other_layers_are_refused(target, features, trained, tmp_path):
    head = tiny_head(target, eagle_hf={"aux_layer_ids": [1, 3, 4]})
    problem = r"layer_ids is \[2, 3, 4\] there and \[1, 3, 4\] now"
    with pytest.raises(ValueError, match=problem):
        trained(target, head, features, tmp_path)


def test_features_in_another_template_are_refused(target, head, features, arguments, tmp_path):
    with pytest.raises(ValueError, match="template_sha256 is t there"):
        Eagle3Trainer(
            model=head,
            target=target,
            args=arguments(tmp_path),
            train_dataset=features,
            processing_class=word_tokenizer(),
        )


def test_features_beyond_max_length_are_refused(target, head, features, trained, tmp_path):
    problem = "max_length is 25 but the features hold a conversation of 39 tokens"
    with pytest.raises(ValueError, match=problem):
        trained(target, head, features, tmp_path, max_length=25)


def test_a_bfloat16_target_trains_a_float32_head_on_its_features(examples, trained, tmp_path):
    target = tiny_target(dtype=torch.bfloat16)
    features = captured(target, examples, tmp_path / "features", dtype="bfloat16")
    online = trained(target, tiny_head(target).float(), examples, tmp_path, logging_steps=1)
    offline = trained(target, tiny_head(target).float(), features, tmp_path, logging_steps=1)
    # Batches of other shapes round differently.
    assert losses(online) == pytest.approx(losses(offline), rel=1e-3)


def test_part_of_a_folder_is_selected(features):
    chosen = features.select([3, 0])
    assert len(chosen) == 2
    assert chosen.lengths == [features.lengths[3], features.lengths[0]]
    assert torch.equal(chosen[0]["input_ids"], features[3]["input_ids"])
    assert [example["id"] for example in chosen.examples()] == ["c3", "c0"]
