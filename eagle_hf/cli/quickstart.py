"""`eagle-hf quickstart`: see generate get faster, with two heads."""

from dataclasses import dataclass, field
from pathlib import Path

from eagle_hf.cli.command import Command
from eagle_hf.quickstart import quickstart


@dataclass(kw_only=True)
class QuickstartArguments:
    """Where the quickstart keeps its steps, and how much it may take."""

    folder: Path = field(default=Path("quickstart"), metadata={"help": "Where everything is kept."})
    minutes: float = field(default=5.0, metadata={"help": "Training budget."})
    prompts: int = field(
        default=480, metadata={"help": "User turns that the target answers for training."}
    )
    no_train: bool = field(default=False, metadata={"help": "Stop after the project's own head."})


def run(arguments: QuickstartArguments) -> None:
    """Show the project's head, and train another one unless `no_train` is set."""
    quickstart(
        arguments.folder,
        minutes=arguments.minutes,
        prompts=arguments.prompts,
        train=not arguments.no_train,
    )


COMMAND = Command(
    name="quickstart",
    summary="see generate get faster, with the project's head and with one trained on this machine",
    arguments=QuickstartArguments,
    run=run,
)
