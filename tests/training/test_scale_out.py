"""Scale-out by `accelerate launch`: two processes follow the curve of one.

A sharded target changes nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from scale_out import GLOBAL_BATCH, ROWS, STEPS
from tiny import tiny_target

from eagle_hf import Eagle3TrainingArguments
from eagle_hf.provenance import remember_fingerprint, weights_fingerprint
from eagle_hf.training.sharding import shard_target

SCRIPT = Path(__file__).with_name("scale_out.py")
CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
MULTI_CPU = CONFIGS / "accelerate" / "multi_cpu.yaml"

# Variants that are run by one process and by two, and variants that only two can run.
ALIKE = ["plain", "pooled", "packed", "uneven", "streamed", "lora", "checkpointed"]
SHARDED = ["whole", "fsdp2", "resumed", "zero3"]

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "ACCELERATE_TORCH_DEVICE": "cpu",  # transformers 5.17 resumes no "cpu:0"
}


def launched(processes, folder, variants):
    """What scale_out.py prints under `accelerate launch`."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", MULTI_CPU]
    done = subprocess.run(
        [*launch, "--num_processes", str(processes), SCRIPT, folder, *variants],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{1: ..., 2: ...}: what one process and what two make of every variant."""
    folder = tmp_path_factory.mktemp("scale_out")
    return {1: launched(1, folder, ALIKE), 2: launched(2, folder, ALIKE + SHARDED)}


def logged(run, name):
    return [log[name] for log in run["logs"] if name in log]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ALIKE)
def test_two_processes_follow_the_curve_of_one(runs, variant):
    one = logged(runs[1][variant], "loss")
    two = logged(runs[2][variant], "loss")
    assert len(one) == STEPS
    assert two == pytest.approx(one, rel=1e-4, abs=1e-4)
    assert len(set(runs[2][variant]["sums"])) == 1  # both processes end with the same head


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["acc_0", "acc_1", "eval_loss", "eval_acc_0", "eval_acc_1", "eval_tau"]
)
def test_two_processes_measure_what_one_measures(runs, metric):
    one = logged(runs[1]["plain"], metric)
    two = logged(runs[2]["plain"], metric)
    assert one
    assert two == pytest.approx(one, abs=1e-4)


def epoch_ids(read, epoch):
    """The conversations that all processes read in one epoch."""
    steps = ROWS // GLOBAL_BATCH
    ids = []
    for process in read:
        for batch in process[epoch * steps : (epoch + 1) * steps]:
            ids += batch
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "streamed"])
def test_an_epoch_reads_every_conversation_once(runs, variant):
    read = runs[2][variant]["read"]
    epochs = [epoch_ids(read, epoch) for epoch in range(STEPS // (ROWS // GLOBAL_BATCH))]
    all_ids = sorted(f"c{i}" for i in range(ROWS))
    for epoch in epochs:
        assert sorted(epoch) == all_ids
    assert epochs[0] != epochs[1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fsdp2", "zero3"])
def test_a_sharded_target_changes_no_loss_and_no_acceptance(runs, how):
    if how not in runs[2]:
        pytest.skip("deepspeed is not installed")
    whole = runs[2]["whole"]
    sharded = runs[2][how]
    for name, count in (("loss", 6), ("eval_loss", 1), ("eval_tau", 1)):
        assert len(logged(whole, name)) == count
        assert logged(sharded, name) == pytest.approx(logged(whole, name), rel=1e-5), name
    assert whole["held"] == [1, 1]
    assert sharded["held"] == pytest.approx([0.5, 0.5], abs=0.01)


@pytest.mark.slow
def test_a_run_goes_on_with_a_sharded_target(runs):
    whole = runs[2]["whole"]
    resumed = runs[2]["resumed"]
    assert logged(resumed, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-5)
    assert resumed["sums"] == pytest.approx(whole["sums"], rel=1e-6)


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_accelerate_configuration_keeps_the_head_whole(path):
    config = load_config_from_file(str(path))
    assert config.distributed_type == "MULTI_GPU" or config.deepspeed_config["zero_stage"] < 3


def test_configurations_that_would_shard_the_head_are_refused(tmp_path, monkeypatch):
    settings = dict(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="distributed_type MULTI_GPU .* shard_target='fsdp2'"):
        Eagle3TrainingArguments(**settings)


@pytest.mark.parametrize(
    "content, problem",
    [
        (None, "cannot be read"),
        ("{}", "cannot be read"),
        ('{"zero_optimization": {"stage": 2}}', "ZeRO stage 2"),
    ],
)
def test_a_zero3_file_must_say_zero3(tmp_path, arguments, content, problem):
    path = tmp_path / "zero.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=problem):
        arguments(tmp_path, shard_target=str(path))


def test_remembered_states_and_a_sharded_target_exclude_each_other(tmp_path, arguments):
    with pytest.raises(ValueError, match="set target_states_gb to 0"):
        arguments(tmp_path, shard_target="fsdp2", target_states_gb=1.0)


def test_one_process_shards_nothing():
    with pytest.raises(ValueError, match="one process runs alone"):
        shard_target(tiny_target(), "fsdp2", torch.device("cpu"))


def test_a_remembered_fingerprint_outlives_the_weights():
    target = tiny_target()
    before = weights_fingerprint(target)
    remember_fingerprint(target)
    with torch.no_grad():
        target.lm_head.weight.zero_()  # as if this process held another share
    assert weights_fingerprint(target) == before
    assert weights_fingerprint(tiny_target(seed=3)) != before
