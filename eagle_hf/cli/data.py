"""`eagle-hf data`: one YAML file from prompts to what a draft head is trained on."""

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eagle_hf.cli.command import Command, add_settings, read_settings
from eagle_hf.cluster import RayExecutor, WantedScale, is_ray, plan_scale
from eagle_hf.data import write_run
from eagle_hf.pipeline import (
    DataConfig,
    Executor,
    Inputs,
    LocalExecutor,
    RunTarget,
    Shard,
    describe_steps,
    measure_sample,
    merge_shards,
    prompts_left,
    read_config,
    run_data,
    sample_prompts,
    sample_size,
)


@dataclass(kw_only=True)
class DataArguments:
    """What is done with the settings of a run."""

    config: Path | None = field(
        default=None, metadata={"help": "YAML file of settings; flags win over it."}
    )
    only: list[str] = field(
        default_factory=list, metadata={"help": "Run these steps alone.", "metavar": "STEP"}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Say what would run, measure a sample, and plan the rest."}
    )
    hours: float | None = field(
        default=None,
        metadata={"help": "With --dry-run: plan as many servers as answer all in this time."},
    )
    sample: int | None = field(
        default=None,
        metadata={"help": "With --dry-run: prompts that are answered; default: a full batch."},
    )
    shard: str | None = field(
        default=None,
        metadata={"help": "Make this part alone, as 0/4: the answers, or --only features."},
    )
    merge: bool = field(
        default=False, metadata={"help": "Join the answers of all shards, and make the rest."}
    )

    def __post_init__(self) -> None:
        chosen = [name for name in ("dry_run", "shard", "merge") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} arrived together; give one of them")
        if self.only and (self.merge or self.dry_run):
            raise ValueError("only arrived with merge or dry_run, which look at all steps")
        is_planned = self.hours is not None or self.sample is not None
        if is_planned and not self.dry_run:
            raise ValueError("hours and sample are settings of a plan; add --dry-run")
        if self.sample is not None and self.sample < 1:
            raise ValueError(f"sample is {self.sample}; at least 1 prompt is measured")


@dataclass(frozen=True)
class DataCommand(Command):
    """A command whose flags stand over a YAML file."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own flags, and one for each setting."""
        super().add_flags(parser)
        add_settings(parser, DataConfig)

    def read_flags(self, options: argparse.Namespace) -> Any:
        """The command's own arguments and the settings of the run."""
        arguments = super().read_flags(options)
        return arguments, read_config(arguments.config, read_settings(DataConfig, options))


def run(read: tuple[DataArguments, DataConfig]) -> None:
    """Make what is missing of the data."""
    arguments, config = read
    target = RunTarget(config)
    if arguments.dry_run:
        _plan(arguments, config, target)
        return
    executor = _open_executor(config, target)
    shard = None if arguments.shard is None else Shard.read(arguments.shard)
    try:
        if arguments.merge:
            metrics = merge_shards(config, target, executor)
        else:
            metrics = run_data(config, target, executor, only=arguments.only, shard=shard)
    finally:
        executor.close()
    folder = config.output_dir if shard is None else shard.folder(config.output_dir)
    write_run(folder, asdict(config), metrics)


def _plan(arguments: DataArguments, config: DataConfig, target: RunTarget) -> None:
    """Say what a run would do, and what the answers that are missing take."""
    inputs = Inputs(config, target)
    for line in describe_steps(inputs):
        print(line)
    left = prompts_left(inputs)
    if left == 0:
        print("every prompt has its answer")
        return
    count = min(left, arguments.sample or sample_size(config))
    # Measured in this process, or on the servers; a cluster has many of the same.
    sample = measure_sample(inputs, LocalExecutor(target), sample_prompts(inputs, count))
    servers = None if arguments.hours is not None else sample.servers
    wanted = WantedScale(prompts=left, servers=servers, hours=arguments.hours)
    print(plan_scale(sample, wanted, basis=f"{sample.prompts} of them answered here"))


def _open_executor(config: DataConfig, target: RunTarget) -> Executor:
    """Where the long steps run."""
    if config.executor == "local":
        return LocalExecutor(target)
    if is_ray(config.executor):
        return RayExecutor(config, target)
    raise ValueError(f"executor is {config.executor!r}; there are local, ray, and ray://host:10001")


COMMAND = DataCommand(
    name="data",
    summary="make training data: prompts, privacy, answers, examples, features",
    arguments=DataArguments,
    run=run,
)
