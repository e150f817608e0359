"""`eagle-hf check`: what every engine will do with a saved head."""

from dataclasses import dataclass, field
from pathlib import Path

from eagle_hf.cli.command import Command
from eagle_hf.hub.check import check
from eagle_hf.hub.fix import fix


@dataclass(kw_only=True)
class CheckArguments:
    """Which head, with which target, and where a corrected one goes."""

    head: str = field(
        metadata={
            "help": "Folder or hub id of a head, in any dialect.",
            "positional": True,
            "metavar": "FOLDER_OR_ID",
        }
    )
    target: str | None = field(
        default=None,
        metadata={"help": "Its target, to compare with: hub id, folder, .gguf file, or smollm2."},
    )
    fix: Path | None = field(
        default=None,
        metadata={
            "help": "Write the head, corrected, to this new folder; the exit status is then its.",
            "metavar": "OUT",
        },
    )


def run(arguments: CheckArguments) -> int:
    """Print what was found; the exit status is 1 for an error."""
    report = check(arguments.head, arguments.target)
    print(report.text())
    if arguments.fix:
        changes = fix(arguments.head, arguments.fix, arguments.target)
        print(f"\n{arguments.fix} holds the head, corrected:")
        for change in changes or ["nothing had to be changed"]:
            print(f"  {change}")
        report = check(arguments.fix, arguments.target)
    return int(report.failed)


COMMAND = Command(
    name="check",
    summary="what eagle_hf, vLLM, SGLang, llama.cpp and OpenVINO will do with a saved head; "
    "exit status 1 for an error",
    arguments=CheckArguments,
    run=run,
)
