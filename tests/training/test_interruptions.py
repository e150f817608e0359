"""Whatever ends a run, nothing computed is lost: kills, full disks, NaN, a second run in the same folder."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_head, tiny_target

from eagle_hf import Eagle3Config, Eagle3DraftHead
from eagle_hf.data.manifest import only_one_run
from eagle_hf.training.checkpoints import last_checkpoint

RUN = """
    import sys, torch
    sys.path.insert(0, sys.argv[1])
    torch.set_num_threads(1)
    from eagle_hf import Eagle3Trainer, Eagle3TrainingArguments
    from tiny import tiny_head, tiny_target
    target, generator = tiny_target(dtype=torch.float32), torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(3, 31, (16 + i,), generator=generator).tolist(), "loss_mask": [0] * 4 + [1] * (12 + i)} for i in range(20)]
    args = Eagle3TrainingArguments(output_dir=sys.argv[2], per_device_train_batch_size=4, max_steps=40, save_steps=3, ttt_curriculum=[1, 3], train_sampling_strategy="group_by_length",
        use_cpu=True, report_to="none", disable_tqdm=True, learning_rate=1e-2, warmup_steps=5, lr_scheduler_type="cosine", save_total_limit=2,
        gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=5, eval_prompts=2, eval_new_tokens=8, logging_steps=5)
    trainer = Eagle3Trainer(model=tiny_head(target), target=target, args=args, train_dataset=rows[2:], eval_dataset=rows[:2])
    trainer.train(resume_from_checkpoint=True if len(sys.argv) > 3 else None)
    trainer.save_head(sys.argv[2] + "/head")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "run.py"
    path.write_text(textwrap.dedent(RUN))
    return path


def start(script, folder, *extra):
    command = [sys.executable, script, Path(__file__).parents[1], folder, *extra]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_a_killed_run_resumes_to_the_same_bits(script, tmp_path):
    whole = start(script, tmp_path / "whole")
    assert whole.wait(timeout=300) == 0, whole.stderr.read()[-2000:]
    killed, wanted = start(script, tmp_path / "killed"), random.randint(3, 33)
    while (found := last_checkpoint(tmp_path / "killed")) is None or int(
        found.rsplit("-", 1)[1]
    ) < wanted:
        assert killed.poll() is None, killed.stderr.read()[-2000:]
        time.sleep(0.005)
    time.sleep(
        random.random() / 10
    )  # anywhere: in a step, an evaluation, or while a checkpoint is written
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "head").exists()
    resumed = start(script, tmp_path / "killed", "resume")
    assert resumed.wait(timeout=300) == 0, resumed.stderr.read()[-2000:]
    ours, theirs = (
        load_file(tmp_path / run / "head" / "model.safetensors") for run in ("killed", "whole")
    )
    assert set(ours) == set(theirs) and "d2t" in ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), (
        f"killed after checkpoint {found}"
    )


def test_nan_stops_the_run_names_the_batch_and_keeps_the_checkpoint(
    target, head, examples, trained, tmp_path
):
    saving = dict(
        save_strategy="steps", save_steps=2, max_steps=10, train_sampling_strategy="sequential"
    )
    calls = []

    def break_the_fourth(module, args, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 4 else output

    head.fc.register_forward_hook(break_the_fourth)
    with pytest.raises(
        ValueError,
        match=r"the loss is nan at step 3 for the conversations \['c12', .*'c15'\].*checkpoint-2",
    ) as error:
        trained(target, head, examples, tmp_path, **saving)
    assert "lower the learning rate" in str(error.value)
    saved = Eagle3DraftHead.from_pretrained(last_checkpoint(tmp_path))
    assert all(torch.isfinite(p).all() for p in saved.parameters())


@pytest.mark.parametrize(
    "failing", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state"]
)
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    target, examples, trained, tmp_path, monkeypatch, failing
):
    from eagle_hf import Eagle3Trainer

    original = getattr(Eagle3Trainer, failing)

    def fill_up(self, output_dir, *args, **kwargs):
        if self.state.global_step == 4:
            Path(output_dir).mkdir(exist_ok=True)
            Path(output_dir, "torn").write_text("x")
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, output_dir, *args, **kwargs)

    monkeypatch.setattr(Eagle3Trainer, failing, fill_up)
    saving = dict(save_strategy="steps", save_steps=2)
    with pytest.raises(
        ValueError,
        match="checkpoint-4 could not be written.*No space left.*resume from .*checkpoint-2, which is whole",
    ):
        trained(target, tiny_head(target), examples, tmp_path / "full", **saving)
    assert not (tmp_path / "full" / "checkpoint-4").exists()
    monkeypatch.undo()
    resumed = trained(
        target, tiny_head(target, seed=7), examples, tmp_path / "full", resume=True, **saving
    )
    whole = trained(target, tiny_head(target), examples, tmp_path / "whole", **saving)
    assert all(
        torch.equal(a, b)
        for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values())
    )


def test_two_runs_in_one_folder_are_refused(target, head, examples, trained, tmp_path):
    with only_one_run(tmp_path), pytest.raises(ValueError, match="another run is writing to"):
        trained(target, head, examples, tmp_path)
    trained(target, head, examples, tmp_path)


def test_an_earlier_runs_checkpoints_are_not_mixed_with_new_ones(
    target, examples, trained, tmp_path
):
    saving = dict(save_strategy="steps", save_steps=3)
    trained(target, tiny_head(target), examples, tmp_path, **saving)
    with pytest.raises(
        ValueError,
        match="checkpoint-6 of an earlier run; go on from it with resume_from_checkpoint=True",
    ):
        trained(target, tiny_head(target), examples, tmp_path, **saving)
    with pytest.raises(ValueError, match="target_weights is .* there"):
        trained(
            tiny_target(dtype=torch.float32, seed=3),
            tiny_head(target),
            examples,
            tmp_path,
            resume=True,
            **saving,
        )
    with pytest.raises(ValueError, match="no whole checkpoint"):
        trained(target, tiny_head(target), examples, tmp_path / "new", resume=True, **saving)


@pytest.mark.parametrize("recipe", ["train.py", "capture_features.py", "prepare_data.py"])
def test_a_configuration_key_that_does_not_exist_is_named(tmp_path, recipe):
    known = {
        "train.py": "dataset: d\noutput_dir: o",
        "capture_features.py": "dataset: d\noutput: o",
        "prepare_data.py": "output_dir: o",
    }
    (tmp_path / "config.yaml").write_text(f"target: t\n{known[recipe]}\nlerning_rate: 1.0e-3\n")
    path = Path(__file__).parents[2] / "recipes" / recipe
    done = subprocess.run(
        [sys.executable, path, "--config", tmp_path / "config.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (
        done.returncode != 0
        and "lerning_rate" in done.stderr.splitlines()[-1]
        and not (tmp_path / "o").exists()
    )


def test_a_head_setting_that_does_not_exist_is_named(target):
    with pytest.raises(ValueError, match="fc_nrm.*fc_norm"):
        Eagle3Config.from_target(target, fc_nrm=True)
    with pytest.raises(ValueError, match="'depht'.*depth, top_k, nodes"):
        Eagle3Config.from_target(target, eagle_hf={"tree": {"depht": 3}}).tree


def test_a_run_writes_what_it_was_made_from(target, head, examples, trained, tmp_path):
    trained(target, head, examples, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (
        manifest["step"] == "training"
        and manifest["layer_ids"] == [2, 3, 4]
        and manifest["head_weights"] is None
    )


def test_reentrant_checkpointing_is_refused(arguments, tmp_path):
    with pytest.raises(ValueError, match="use_reentrant=False"):
        arguments(
            tmp_path,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": True},
        )
