"""`eagle-hf targets`: what can draft for a model, answered without its weights."""

import json
from dataclasses import asdict, dataclass, field

from eagle_hf.cli.command import Command
from eagle_hf.compat import quiet_libraries
from eagle_hf.decoding.suitability import suitability
from eagle_hf.target.weightless import open_without_weights


@dataclass(kw_only=True)
class TargetsArguments:
    """Which targets."""

    targets: list[str] = field(
        metadata={
            "help": "Hub ids, folders, config.json or .gguf files of targets, or smollm2.",
            "positional": True,
            "metavar": "TARGET",
        }
    )
    json: bool = field(default=False, metadata={"help": "Print JSON in place of text."})


@dataclass(frozen=True)
class Answer:
    """What can draft for a target.

    Attributes:
        target: as it was given.
        model_class: the class of its model.
        refusals: by kind of assistant, "" for one that is served.
    """

    target: str
    model_class: str
    refusals: dict[str, str]

    def text(self) -> str:
        """A line for the target and one for each kind of assistant."""
        lines = [f"{self.target} ({self.model_class})"]
        for kind, refusal in self.refusals.items():
            said = f"refused: {refusal}" if refusal else "served"
            lines.append(f"  {kind:<16} {said}")
        return "\n".join(lines)


def _ask(target: str) -> Answer:
    """The answer for one target."""
    with quiet_libraries():
        model = open_without_weights(target)
    return Answer(target, type(model).__name__, suitability(model))


def run(arguments: TargetsArguments) -> None:
    """Print an answer for each target and each kind of assistant."""
    answers = [_ask(target) for target in arguments.targets]
    if arguments.json:
        print(json.dumps([asdict(answer) for answer in answers], indent=2))
        return
    for answer in answers:
        print(answer.text())


COMMAND = Command(
    name="targets",
    summary="what can draft for a model (a head, a smaller model, the model itself), answered "
    "from its config",
    arguments=TargetsArguments,
    run=run,
)
