"""Features from an engine's files are the target's own; other files are refused by name."""

import json
import os
import re
import shutil

import pytest
import torch
from engine_folders import engine_tensors, play_the_engine
from feature_folders import LAYERS, LENGTHS, Interrupted, contents, float32_target, shard_name
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_target

from eagle_hf.data import EngineStates, Features, write_engine_request


@pytest.fixture
def engine(capture_target, examples, tmp_path):
    """A folder of an engine that read all eight examples; its files by the examples' ids."""
    folder = tmp_path / "engine"
    write_engine_request(capture_target, examples, folder, layer_ids=LAYERS)
    play_the_engine(capture_target, folder)
    return folder


def file_of(folder, example):
    """The engine's file of an example."""
    for path in sorted((folder / "states").iterdir()):
        if load_file(path)["token_ids"].tolist() == example["input_ids"]:
            return path
    raise AssertionError(f"no file holds {example['id']}")


def rewrite(path, **changes):
    """Change tensors of a file."""
    save_file(load_file(path) | changes, path)


def assert_same_features(found, wanted):
    assert found.ids == wanted.ids
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["loss_mask"], other["loss_mask"])
        assert torch.equal(one["best"], other["best"])
        for name in ("aux_hidden_states", "hidden_states", "log_normaliser"):
            assert torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("layers", [[2, 3, 4], [5, 1, 3]], ids=str)
def test_an_engines_states_become_the_features_of_the_target(
    capture_target, examples, write, tmp_path, layers
):
    write_engine_request(capture_target, examples, tmp_path / "engine", layer_ids=layers)
    play_the_engine(capture_target, tmp_path / "engine")
    write(tmp_path / "own", layer_ids=layers)
    source = EngineStates(tmp_path / "engine")
    report = write(tmp_path / "engines", layer_ids=layers, source=source)
    assert (report.written, report.left_out) == (8, [])
    engines = Features(tmp_path / "engines")
    assert_same_features(engines, Features(tmp_path / "own"))
    engines.check(target=capture_target, layer_ids=layers)


def test_files_are_found_by_their_tokens_whatever_they_are_called(engine, write, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for number, path in enumerate(sorted((engine / "states").iterdir())):
        shutil.copy(path, plain / f"cmpl-{number}-a8.safetensors")
    report = write(tmp_path / "features", source=EngineStates(plain))
    assert report.written == 8


def test_a_request_asks_for_each_text_once_and_for_sorted_states(
    capture_target, examples, tmp_path
):
    again = examples[0] | {"id": "again", "loss_mask": [1] * LENGTHS[0]}
    request = write_engine_request(
        capture_target, [*examples, again], tmp_path, layer_ids=[4, 2, 3]
    )
    lines = (tmp_path / "tokens.jsonl").read_text().splitlines()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    asked = [json.loads(line)["token_ids"] for line in lines]
    assert asked == [example["input_ids"] for example in examples]
    assert (request.texts, request.tokens) == (8, 114)
    assert manifest["state_ids"] == [2, 3, 4, 7]
    assert request.bytes == 114 * 4 * 32 * 4
    play_the_engine(capture_target, tmp_path)
    request = write_engine_request(capture_target, examples, tmp_path, layer_ids=[4, 2, 3])
    assert (request.texts, request.there, request.tokens) == (8, 8, 0)


def test_a_text_as_long_as_the_targets_positions_is_left_out_of_the_request(tmp_path):
    target = tiny_target(dtype=torch.float32, max_position_embeddings=6)
    rows = []
    for number, length in enumerate([5, 6]):
        rows.append({"id": f"c{number}", "input_ids": [7] * length, "loss_mask": [1] * length})
    request = write_engine_request(target, rows, tmp_path, layer_ids=LAYERS)
    assert request.texts == 1
    assert request.left_out[0].id == "c1"
    assert (
        "6 tokens, and an engine reads at most 5 of this target's 6" in request.left_out[0].reason
    )
    with pytest.raises(ValueError, match="all 1 conversations are too long for an engine"):
        write_engine_request(target, rows[1:], tmp_path, layer_ids=LAYERS)


def test_an_adapter_is_no_target_for_an_engine(examples, tmp_path):
    adapted = get_peft_model(float32_target(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="merge the adapter and save the result"):
        write_engine_request(adapted, examples, tmp_path, layer_ids=LAYERS)


def test_a_disk_too_small_for_the_states_is_refused(
    capture_target, examples, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"the states take 0\.1 MB and the disk of .* has 0\.1 MB"):
        write_engine_request(capture_target, examples, tmp_path, layer_ids=LAYERS)


def test_a_request_for_other_layers_or_another_target_is_refused(
    capture_target, engine, examples, write, tmp_path
):
    with pytest.raises(ValueError, match=r"layer_ids is \[2, 3, 4\] there and \[1, 3, 4\] now"):
        write_engine_request(capture_target, examples, engine, layer_ids=[1, 3, 4])
    with pytest.raises(ValueError, match=r"layer_ids is \[2, 3, 4\] there and \[1, 3, 4\] now"):
        write(tmp_path / "features", layer_ids=[1, 3, 4], source=EngineStates(engine))
    with pytest.raises(ValueError, match="target_weights is .* there and .* now"):
        write(tmp_path / "features", target=float32_target(seed=1), source=EngineStates(engine))
    assert not (tmp_path / "features").exists()


def damage_torn(path):
    os.truncate(path, path.stat().st_size - 1)


def damage_rows(path):
    rewrite(path, hidden_states=load_file(path)["hidden_states"][:-1].contiguous())


def damage_last_token(path):
    tensors = load_file(path)
    rewrite(
        path,
        token_ids=tensors["token_ids"][:-1].clone(),
        hidden_states=tensors["hidden_states"][:-1].clone(),
    )


def damage_other_tokens(path):
    rewrite(path, token_ids=load_file(path)["token_ids"] + 1)


def damage_names(path):
    save_file({"weight": torch.zeros(3)}, path)


def damage_shape(path):
    rewrite(path, hidden_states=load_file(path)["hidden_states"].flatten(1))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_torn, "cannot be used: it cannot be opened, it may be torn"),
        (damage_rows, "cannot be used: it holds 9 tokens and the states of 8"),
        (damage_last_token, "lacks the last of its 9 tokens"),
        (damage_other_tokens, "no file of .* holds its 9 tokens"),
        (damage_names, "cannot be used: it holds weight, not token_ids and hidden_states"),
        (damage_shape, "cannot be used: token_ids has the shape"),
        (os.unlink, "no file of .* holds its 9 tokens"),
    ],
)
def test_a_conversation_without_whole_states_is_left_out_by_name(
    engine, examples, write, tmp_path, capsys, damage, reason
):
    damage(file_of(engine, examples[2]))
    report = write(tmp_path / "features", source=EngineStates(engine), progress=True)
    assert report.written == 7
    assert [row.id for row in report.left_out] == ["c2"]
    assert re.search(reason, report.left_out[0].reason)
    assert "1 of 8 conversations are left out, the first: c2: " in capsys.readouterr().out
    features = Features(tmp_path / "features")
    assert features.ids == ["c0", "c1", "c3", "c4", "c5", "c6", "c7"]
    assert features[2]["input_ids"].tolist() == examples[3]["input_ids"]


def test_a_folder_without_any_of_the_conversations_is_refused(
    capture_target, engine, examples, write, tmp_path
):
    rows = [{"id": "x", "input_ids": [9] * 11, "loss_mask": [1] * 11}]
    damage_torn(file_of(engine, examples[2]))
    problem = (
        r"states of none of the 1 conversations \(7 files of other texts; .*it cannot be opened"
    )
    with pytest.raises(ValueError, match=problem):
        write(tmp_path / "features", rows, source=EngineStates(engine))


def plain_folder(tmp_path, target, examples, state_ids):
    """Files of an engine that nobody wrote a request for."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for example in examples:
        tensors = engine_tensors(target, example["input_ids"], state_ids)
        save_file(tensors, folder / f"{example['id']}.safetensors")
    return folder


@pytest.mark.parametrize(
    ("target", "state_ids", "problem"),
    [
        (float32_target(), [2, 3, 4], "holds 3 states of 32 values a token, and 4 of 32 are"),
        (
            tiny_target(dtype=torch.float32, hidden_size=64),
            [2, 3, 4, 7],
            "holds 4 states of 64 values a token, and 4 of 32 are needed",
        ),
        (
            tiny_target(dtype=torch.bfloat16),
            [2, 3, 4, 7],
            "holds states in torch.bfloat16 and the target computes in torch.float32; open",
        ),
        (
            float32_target(),
            [3, 4, 5, 7],
            "state 2 is off by .*, and is the target's state 3; .* state 7 is off by 0.0%",
        ),
        (float32_target(seed=1), [2, 3, 4, 7], "state 2 is off by .*, and none of the target's"),
    ],
    ids=["fewer states", "wider", "other dtype", "other layers", "other target"],
)
def test_states_of_something_else_are_refused_before_anything_is_written(
    examples, write, tmp_path, target, state_ids, problem
):
    folder = plain_folder(tmp_path, target, examples, state_ids)
    with pytest.raises(ValueError, match=problem):
        write(tmp_path / "features", source=EngineStates(folder))
    assert not (tmp_path / "features").exists()


def test_states_behind_the_final_norm_are_refused(capture_target, examples, write, tmp_path):
    folder = plain_folder(tmp_path, capture_target, examples, [2, 3, 4, 7])
    norm = capture_target.model.norm
    for path in folder.iterdir():
        states = load_file(path)["hidden_states"]
        states[:, -1] = norm(states[:, -1]).detach()
        rewrite(path, hidden_states=states)
    with pytest.raises(ValueError, match="state 7 is off by .*, and none of the target's"):
        write(tmp_path / "features", source=EngineStates(folder))


def test_states_of_an_earlier_text_at_some_tokens_are_refused(engine, examples, write, tmp_path):
    path = file_of(engine, examples[3])  # the longest
    states = load_file(path)["hidden_states"]
    states[7] = states[20]
    rewrite(path, hidden_states=states)
    with pytest.raises(ValueError, match=r"state 2 is off by .*, by \d+.\d% at position 7"):
        write(tmp_path / "features", source=EngineStates(engine))


def test_tokens_without_states_are_named_and_the_run_goes_on_once_they_are_there(
    capture_target, engine, examples, write, tmp_path
):
    path = file_of(engine, examples[2])
    whole = path.read_bytes()
    states = load_file(path)["hidden_states"]
    states[5:7] = 0
    rewrite(path, hidden_states=states)
    problem = r"no states for 2 of its 9 tokens, the first at position 5; delete .* and run the eng"
    with pytest.raises(ValueError, match=problem):
        write(tmp_path / "features", source=EngineStates(engine))
    assert (tmp_path / "features" / shard_name(0)).exists()
    path.write_bytes(whole)
    report = write(tmp_path / "features", source=EngineStates(engine))
    assert report.already_there > 0
    assert report.written + report.already_there == 8


def test_an_interrupted_capture_from_an_engine_goes_on_to_the_same_bytes(
    engine, examples, write, tmp_path
):
    write(tmp_path / "whole", source=EngineStates(engine))
    with pytest.raises(KeyboardInterrupt):
        # Planning reads each once, the comparison two of them, and capturing each once more.
        write(tmp_path / "parts", Interrupted(examples, 14), source=EngineStates(engine))
    report = write(tmp_path / "parts", source=EngineStates(engine))
    assert report.already_there > 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_a_folder_is_not_continued_from_another_source(engine, write, tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="states_from is target there and engine now"):
        write(tmp_path, source=EngineStates(engine))


def test_a_folder_from_before_there_were_engines_is_continued(write, tmp_path):
    write(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    del index["states_from"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    (tmp_path / shard_name(1)).unlink()
    assert 0 < write(tmp_path).written < 8


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder; give the one that write_engine_request"):
        EngineStates(tmp_path / "nowhere")
