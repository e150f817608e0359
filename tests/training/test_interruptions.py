"""However a run ends, nothing computed is lost: kills, full disks, NaN, a second run."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_head, tiny_target
from training_checks import same_weights

from eagle_hf import Eagle3Config, Eagle3DraftHead, Eagle3Trainer
from eagle_hf.data.manifest import only_one_run
from eagle_hf.training.checkpoints import last_checkpoint

SCRIPT = Path(__file__).with_name("killed_run.py")
RECIPES = Path(__file__).parents[2] / "recipes"


def start(folder, *extra):
    """A run of killed_run.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, folder, *extra],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process):
    """Wait until a run has ended well."""
    assert process.wait(timeout=300) == 0, process.stderr.read()[-2000:]


def kill_after(process, folder, wanted):
    """Kill a run some time after the checkpoint of this step; gives the last checkpoint."""
    step = 0
    while step < wanted:
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.005)
        found = last_checkpoint(folder)
        if found is not None:
            step = int(found.rsplit("-", 1)[1])
    # Anywhere: in a step, an evaluation, or while a checkpoint is written.
    time.sleep(random.random() / 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return found


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    finish(start(tmp_path / "whole"))
    killed = tmp_path / "killed"
    found = kill_after(start(killed), killed, wanted=random.randint(3, 33))
    assert not (killed / "head").exists()
    finish(start(killed, "resume"))
    ours = load_file(killed / "head" / "model.safetensors")
    theirs = load_file(tmp_path / "whole" / "head" / "model.safetensors")
    assert set(ours) == set(theirs)
    assert "d2t" in ours
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), f"{name}, killed after checkpoint {found}"


def test_nan_stops_the_run_names_the_batch_and_keeps_the_checkpoint(
    target, head, examples, trained, tmp_path
):
    calls = []

    def break_the_fourth(module, args, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 4 else output

    head.fc.register_forward_hook(break_the_fourth)
    saving = dict(
        save_strategy="steps", save_steps=2, max_steps=10, train_sampling_strategy="sequential"
    )
    problem = (
        r"the loss is nan at step 3 for the conversations \['c12', .*'c15'\]"
        r".*lower the learning rate.*checkpoint-2"
    )
    with pytest.raises(ValueError, match=problem):
        trained(target, head, examples, tmp_path, **saving)
    saved = Eagle3DraftHead.from_pretrained(last_checkpoint(tmp_path))
    assert all(torch.isfinite(p).all() for p in saved.parameters())


@pytest.mark.parametrize(
    "failing", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state"]
)
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    target, examples, trained, tmp_path, monkeypatch, failing
):
    original = getattr(Eagle3Trainer, failing)

    def fill_up(self, output_dir, *args, **kwargs):
        if self.state.global_step == 4:
            Path(output_dir).mkdir(exist_ok=True)
            Path(output_dir, "torn").write_text("x")
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, output_dir, *args, **kwargs)

    monkeypatch.setattr(Eagle3Trainer, failing, fill_up)
    saving = dict(save_strategy="steps", save_steps=2)
    full = tmp_path / "full"
    problem = (
        "checkpoint-4 could not be written.*No space left"
        ".*resume from .*checkpoint-2, which is whole"
    )
    with pytest.raises(ValueError, match=problem):
        trained(target, tiny_head(target), examples, full, **saving)
    assert not (full / "checkpoint-4").exists()
    monkeypatch.undo()
    resumed = trained(target, tiny_head(target, seed=7), examples, full, resume=True, **saving)
    whole = trained(target, tiny_head(target), examples, tmp_path / "whole", **saving)
    assert same_weights(resumed.model, whole.model)


def test_two_runs_in_one_folder_are_refused(target, head, examples, trained, tmp_path):
    with only_one_run(tmp_path), pytest.raises(ValueError, match="another run is writing to"):
        trained(target, head, examples, tmp_path)
    trained(target, head, examples, tmp_path)


def test_an_earlier_runs_checkpoints_are_not_mixed_with_new_ones(
    target, examples, trained, tmp_path
):
    saving = dict(save_strategy="steps", save_steps=3)
    trained(target, tiny_head(target), examples, tmp_path, **saving)
    problem = "checkpoint-6 of an earlier run; go on from it with resume_from_checkpoint=True"
    with pytest.raises(ValueError, match=problem):
        trained(target, tiny_head(target), examples, tmp_path, **saving)


def test_a_run_is_not_resumed_for_another_target(target, examples, trained, tmp_path):
    saving = dict(save_strategy="steps", save_steps=3)
    trained(target, tiny_head(target), examples, tmp_path, **saving)
    other = tiny_target(dtype=torch.float32, seed=3)
    with pytest.raises(ValueError, match="target_weights is .* there"):
        trained(other, tiny_head(target), examples, tmp_path, resume=True, **saving)


def test_nothing_is_resumed_in_an_empty_folder(target, head, examples, trained, tmp_path):
    with pytest.raises(ValueError, match="no whole checkpoint"):
        trained(target, head, examples, tmp_path / "new", resume=True)


@pytest.mark.parametrize(
    "recipe, known",
    [
        ("train.py", "dataset: d\noutput_dir: o"),
        ("capture_features.py", "dataset: d\noutput: o"),
    ],
    ids=["train.py", "capture_features.py"],
)
def test_a_configuration_key_that_does_not_exist_is_named(tmp_path, recipe, known):
    (tmp_path / "config.yaml").write_text(f"target: t\n{known}\nlerning_rate: 1.0e-3\n")
    done = subprocess.run(
        [sys.executable, RECIPES / recipe, "--config", tmp_path / "config.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "lerning_rate" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o").exists()


def test_a_head_setting_that_does_not_exist_is_named(target):
    with pytest.raises(ValueError, match="fc_nrm.*fc_norm"):
        Eagle3Config.from_target(target, fc_nrm=True)
    with pytest.raises(ValueError, match="'depht'.*depth, top_k, nodes"):
        config = Eagle3Config.from_target(target, eagle_hf={"tree": {"depht": 3}})
        _ = config.tree


def test_a_run_writes_what_it_was_made_from(target, head, examples, trained, tmp_path):
    trained(target, head, examples, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["step"] == "training"
    assert manifest["layer_ids"] == [2, 3, 4]
    assert manifest["head_weights"] is None
