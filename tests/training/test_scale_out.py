"""Scale-out by `accelerate launch`: two processes follow the curve of one; a sharded target changes nothing."""

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
from eagle_hf.training.sharding import shard_target

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
ALIKE = [
    "plain",
    "pooled",
    "packed",
    "uneven",
    "streamed",
    "lora",
    "checkpointed",
]  # by one process and by two
SHARDED = ["whole", "fsdp2", "resumed", "zero3"]


def launched(processes, folder, variants):
    """What scale_out.py prints under `accelerate launch`."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        CONFIGS / "accelerate" / "multi_cpu.yaml",
    ]
    script = [Path(__file__).with_name("scale_out.py"), folder, *variants]
    environment = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_TORCH_DEVICE": "cpu",
    }  # transformers 5.17 resumes no "cpu:0"
    done = subprocess.run(
        [*launch, "--num_processes", str(processes), *script],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
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
    one, two = (logged(runs[processes][variant], "loss") for processes in (1, 2))
    assert len(one) == STEPS and two == pytest.approx(one, rel=1e-4, abs=1e-4)
    assert len(set(runs[2][variant]["sums"])) == 1  # both processes end with the same head


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["acc_0", "acc_1", "eval_loss", "eval_acc_0", "eval_acc_1", "eval_tau"]
)
def test_two_processes_measure_what_one_measures(runs, metric):
    one, two = (logged(runs[processes]["plain"], metric) for processes in (1, 2))
    assert one and two == pytest.approx(one, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "streamed"])
def test_an_epoch_reads_every_conversation_once(runs, variant):
    read, steps = runs[2][variant]["read"], ROWS // GLOBAL_BATCH
    epochs = [
        [id for process in read for batch in process[i * steps : (i + 1) * steps] for id in batch]
        for i in range(STEPS // steps)
    ]
    assert all(sorted(epoch) == sorted(f"c{i}" for i in range(ROWS)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fsdp2", "zero3"])
def test_a_sharded_target_changes_no_loss_and_no_acceptance(runs, how):
    if how not in runs[2]:
        pytest.skip("deepspeed is not installed")
    whole, sharded = runs[2]["whole"], runs[2][how]
    for name, count in (("loss", 6), ("eval_loss", 1), ("eval_tau", 1)):
        assert len(logged(whole, name)) == count
        assert logged(sharded, name) == pytest.approx(logged(whole, name), rel=1e-5), name
    assert whole["held"] == [1, 1] and sharded["held"] == pytest.approx([0.5, 0.5], abs=0.01)


@pytest.mark.slow
def test_a_run_goes_on_with_a_sharded_target(runs):
    assert logged(runs[2]["resumed"], "loss") == pytest.approx(
        logged(runs[2]["whole"], "loss"), rel=1e-5
    )
    assert runs[2]["resumed"]["sums"] == pytest.approx(runs[2]["whole"]["sums"], rel=1e-6)


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
def test_a_zero3_file_must_say_zero3(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "zero.json").write_text(content)
    with pytest.raises(ValueError, match=problem):
        Eagle3TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to="none",
            shard_target=str(tmp_path / "zero.json"),
        )


def test_remembered_states_and_a_sharded_target_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="set target_states_gb to 0"):
        Eagle3TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to="none",
            shard_target="fsdp2",
            target_states_gb=1.0,
        )


def test_one_process_shards_nothing():
    with pytest.raises(ValueError, match="one process runs alone"):
        shard_target(tiny_target(), "fsdp2", torch.device("cpu"))
