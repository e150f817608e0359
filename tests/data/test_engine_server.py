"""A running engine gives the target's own features, and is refused by name where it does not."""

import pytest
import torch
from engine_server import EngineReplies
from engine_server import EngineServer as Vllm
from feature_folders import Interrupted, contents, float32_target
from safetensors.torch import save_file

from eagle_hf.data import EngineServer, Features
from eagle_hf.data.features.engine_states import server as server_module


@pytest.fixture
def replies(capture_target, tmp_path):
    folder = tmp_path / "states"
    folder.mkdir()
    return EngineReplies(capture_target, folder, [2, 3, 4, 7])


@pytest.fixture
def url(replies, monkeypatch):
    """The URL of an engine that answers as `replies` says."""
    monkeypatch.setattr(server_module, "FIRST_PAUSE_S", 0.01)
    with Vllm(replies) as vllm:
        yield vllm.url


def test_a_running_engine_gives_the_features_of_the_target(replies, url, write, tmp_path):
    write(tmp_path / "own")
    report = write(tmp_path / "engines", source=EngineServer(url, at_once=3))
    assert (report.written, report.left_out) == (8, [])
    own = Features(tmp_path / "own")
    engines = Features(tmp_path / "engines")
    assert engines.ids == own.ids
    for one, other in zip(engines, own, strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["best"], other["best"])
        for name in ("aux_hidden_states", "hidden_states", "log_normaliser"):
            assert torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-4), name


def test_no_file_of_the_engine_stays(replies, url, write, tmp_path):
    write(tmp_path / "features", source=EngineServer(url))
    assert len(replies.asked) == 10  # the shortest and the longest were compared first
    assert not list(replies.folder.iterdir())


def test_a_busy_engine_is_asked_again(replies, url, write, tmp_path):
    replies.refusals = [503, 200, 429, 500]
    assert write(tmp_path / "features", source=EngineServer(url)).written == 8


def test_an_engine_whose_answers_are_cut_is_asked_again(replies, url, write, tmp_path):
    replies.cuts = 2
    assert write(tmp_path / "features", source=EngineServer(url)).written == 8


def test_an_interrupted_capture_goes_on_to_the_same_bytes(replies, url, examples, write, tmp_path):
    write(tmp_path / "whole", source=EngineServer(url))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "parts", Interrupted(examples, 14), source=EngineServer(url))
    assert write(tmp_path / "parts", source=EngineServer(url)).already_there > 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_texts_longer_than_the_engine_takes_are_left_out_by_name(replies, url, write, tmp_path):
    replies.limit = 30
    report = write(tmp_path / "features", source=EngineServer(url))
    assert [row.id for row in report.left_out] == ["c3", "c6"]
    assert "it has 30 tokens, and" in report.left_out[0].reason
    assert report.written == 6
    replies.limit = 3
    with pytest.raises(ValueError, match="all 8 conversations are too long"):
        write(tmp_path / "none", source=EngineServer(url))


def refused(write, tmp_path, url, problem, **settings):
    """Capture, and be refused before anything is written."""
    with pytest.raises(ValueError, match=problem):
        write(tmp_path / "features", source=EngineServer(url, **settings))
    assert not (tmp_path / "features").exists()


def test_other_layers_and_another_target_are_refused(replies, url, write, tmp_path):
    replies.state_ids = [2, 3, 4]
    refused(write, tmp_path, url, "holds 3 states of 32 values a token, and 4 of 32 are needed")
    replies.state_ids = [1, 3, 4, 7]
    refused(write, tmp_path, url, "state 2 is off by .*, and is the target's state 1")
    replies.state_ids = [2, 3, 4, 7]
    replies.target = float32_target(seed=1)
    refused(write, tmp_path, url, "state 2 is off by .*, and none of the target's")


def test_an_engine_that_writes_no_states_is_refused(replies, url, write, tmp_path):
    replies.answer = {"kv_transfer_params": None}
    refused(write, tmp_path, url, "answers without hidden_states_path, so it writes no states")


def test_a_disk_that_only_the_engine_sees_is_refused(replies, url, write, tmp_path):
    replies.answer = {
        "kv_transfer_params": {"hidden_states_path": "/of/another/machine.safetensors"}
    }
    refused(write, tmp_path, url, "wrote states to /of/another, which is not here")


@pytest.mark.parametrize("name", ["mine.txt", "mine.safetensors", "other.safetensors"])
def test_a_file_that_does_not_hold_the_states_asked_for_is_never_removed(
    name, replies, url, write, tmp_path
):
    mine = tmp_path / name
    mine.write_text("precious")
    if name == "other.safetensors":
        tensors = {"token_ids": torch.tensor([1]), "hidden_states": torch.ones(1, 4, 32)}
        save_file(tensors, mine)
    lock = tmp_path / f"{name}.lock"
    lock.touch()
    before = mine.read_bytes()
    replies.answer = {"kv_transfer_params": {"hidden_states_path": str(mine)}}
    problem = {
        "mine.txt": "names .*mine.txt as its file of states",
        "mine.safetensors": "mine.safetensors cannot be read",
        "other.safetensors": "holds other tokens than it should",
    }
    refused(write, tmp_path, url, problem[name])
    assert mine.read_bytes() == before
    assert lock.exists()


def test_an_engine_that_refuses_or_is_gone_is_named(replies, url, write, tmp_path):
    replies.refusals = [404]
    refused(write, tmp_path, url, r"/v1/models refuses \(404\): .*busy")
    refused(write, tmp_path, "http://127.0.0.1:9", "cannot be reached in 4 attempts")


def test_an_engine_that_never_finishes_a_file_is_named(replies, url, write, tmp_path, monkeypatch):
    monkeypatch.setattr("engine_server.WRITING_S", 1.0)
    refused(write, tmp_path, url, "has been writing .* for 0.3 s", timeout_s=0.3)


def test_states_that_an_engine_left_out_are_named(replies, url, write, tmp_path):
    def forget(tensors):
        tensors["hidden_states"][1] = 0

    replies.change = forget
    refused(write, tmp_path, url, "no states for 1 of its 3 tokens, the first at position 1; run")


@pytest.mark.parametrize("setting", [{"at_once": 0}, {"timeout_s": 0}])
def test_settings_that_mean_nothing_are_refused(setting):
    with pytest.raises(ValueError, match="at_once must be at least 1, and timeout_s more than 0"):
        EngineServer("http://localhost:8000", **setting)
