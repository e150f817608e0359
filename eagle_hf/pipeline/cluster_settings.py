"""What can be set about a run on a Ray cluster."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class ClusterSettings:
    """What a run takes of a Ray cluster (`executor: ray` or `ray://host:port`)."""

    workers: int | None = field(
        default=None,
        metadata={
            "help": "Most workers at once, each with a target or a client of its own; default: as "
            "many as the cluster holds, and one for each of answers.servers."
        },
    )
    cpus_per_worker: float = field(default=1.0, metadata={"help": "CPUs that a worker takes."})
    gpus_per_worker: float | None = field(
        default=None,
        metadata={
            "help": "GPUs of a worker that holds the target; default: 1 where the cluster has any."
        },
    )
    storage: str | None = field(
        default=None,
        metadata={
            "help": "Folder or fsspec URL of this run, for turns that are on their way, and in "
            "the end conversations.jsonl; default: the folder of the answers. All nodes see it."
        },
    )
    unit_prompts: int = field(
        default=256, metadata={"help": "Prompts that a worker is given at once."}
    )

    def __post_init__(self) -> None:
        if self.unit_prompts < 1:
            raise ValueError(f"cluster.unit_prompts is {self.unit_prompts}; it must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"cluster.workers is {self.workers}; it must be at least 1")
        taken = min(self.cpus_per_worker, self.gpus_per_worker or 0.0)
        if taken < 0:
            raise ValueError("cluster.cpus_per_worker and gpus_per_worker must be at least 0")
