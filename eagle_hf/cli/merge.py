"""`eagle-hf merge`: write a head with a LoRA merged in."""

from dataclasses import dataclass, field
from pathlib import Path

from eagle_hf.cli.command import Command
from eagle_hf.training.merging import merge_saved


@dataclass(kw_only=True)
class MergeArguments:
    """Which head, which adapter, and where the merged head goes."""

    head: str = field(
        metadata={"help": "Folder or hub id of the head that the adapter was trained on."}
    )
    adapter: str = field(metadata={"help": "PEFT adapter, or a checkpoint of a LoRA run."})
    out: Path = field(metadata={"help": "New folder of the merged head."})


def run(arguments: MergeArguments) -> None:
    """Merge and save."""
    merge_saved(arguments.head, arguments.adapter, arguments.out)
    print(f"the merged head is in {arguments.out}")


COMMAND = Command(
    name="merge",
    summary="write a head with a LoRA merged in, as engines load it",
    arguments=MergeArguments,
    run=run,
)
