"""`eagle-hf serve-command`: how to serve a target with a drafter on an engine."""

from dataclasses import dataclass, field

from eagle_hf.cli.command import Command
from eagle_hf.head.trees import TreeConfig
from eagle_hf.hub.export import named_target
from eagle_hf.hub.serve import head_settings, serve_command

ENGINES = ("vllm", "sglang", "llamacpp", "openvino")
METHODS = ("eagle3", "draft-model", "ngram")


@dataclass(kw_only=True)
class ServeArguments:
    """Which drafter, for whom, on which engine."""

    head: str | None = field(
        default=None,
        metadata={
            "help": "Folder or hub id of the draft head, or of the smaller model; none for ngram.",
            "positional": True,
            "metavar": "HEAD",
        },
    )
    engine: str = field(metadata={"help": "Which engine serves.", "choices": ENGINES})
    method: str = field(default="eagle3", metadata={"help": "What drafts.", "choices": METHODS})
    target: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of the target (default: what the head's card names)."},
    )
    tree: str | None = field(
        default=None,
        metadata={
            "help": "policy:depth:top_k:nodes, e.g. dynamic:4:4:16 or chain:4:1:4 "
            "(default: the head's own)."
        },
    )
    tp: int = field(default=1, metadata={"help": "GPUs that share the target."})


def run(arguments: ServeArguments) -> None:
    """Print the script that serves, and what to know before."""
    config = None
    dialect = "eagle_hf"
    target = arguments.target
    if arguments.method == "eagle3" and arguments.head is not None:
        config, dialect = head_settings(arguments.head)
        target = target or named_target(arguments.head)
    if target is None:
        raise ValueError("the target is missing; name it: --target")
    tree = TreeConfig.parse(arguments.tree) if arguments.tree else None
    command = serve_command(
        target,
        arguments.head,
        arguments.engine,
        arguments.method,
        config,
        dialect,
        tree,
        arguments.tp,
    )
    print(command.text())


COMMAND = Command(
    name="serve-command",
    summary="print how to serve a target with a drafter, and what to know before",
    arguments=ServeArguments,
    run=run,
)
