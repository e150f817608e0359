"""`eagle-hf export`: write a head as one engine reads it."""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoConfig

from eagle_hf.cli.command import Command
from eagle_hf.evaluation.arguments import VocabularyArguments
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.hub.export import export_head, named_target

FORMATS = ("speculators", "vllm", "sglang", "llamacpp", "openvino")


@dataclass(kw_only=True)
class ExportArguments(VocabularyArguments):
    """Which head, for which engine, and where it goes."""

    head: str = field(
        metadata={
            "help": "Folder or hub id of a draft head, in any dialect.",
            "positional": True,
            "metavar": "HEAD",
        }
    )
    to: str = field(metadata={"help": "The engine, or the format.", "choices": FORMATS})
    target: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of the target: speculators names it, SGLang may need it, "
            "and the head is held against its config."
        },
    )
    out: Path = field(metadata={"help": "New folder."})


def run(arguments: ExportArguments) -> None:
    """Write the head for an engine."""
    name = arguments.target
    if arguments.to == "speculators" and not name:
        name = named_target(arguments.head)
    target = AutoConfig.from_pretrained(name) if name else None
    head = Eagle3DraftHead.from_pretrained(
        arguments.head, dtype="auto", vocab_size=arguments.vocab_size
    )
    export_head(head, arguments.out, arguments.to, name, target)
    print(f"the head is in {arguments.out}")


COMMAND = Command(
    name="export",
    summary="write a head as one engine reads it",
    arguments=ExportArguments,
    run=run,
)
