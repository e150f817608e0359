"""The steps of a run: what the result of each depends on. Each lies in a folder of its name.

    prompts -> privacy -> answers -> conversations -> examples -> features

`conversations` are the answers that are kept: to the prompts of this run, and without personal
data. They are what training reads.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from eagle_hf.pipeline.settings import DataConfig

TARGET = ("target", "adapter", "tokenizer")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: as the command line and the YAML file call it, and its folder.
        output: the file that later steps read; None where nothing reads one.
        settings: whole names of settings, or of sections, that its result depends on.
        reads_target: whether its result depends on the target's files.
        grows: whether it goes on with new inputs, and keeps what it made of the old ones.
    """

    name: str
    output: str | None
    settings: tuple[str, ...]
    reads_target: bool = False
    grows: bool = False


STEPS = (
    Step(
        "prompts",
        "prompts.jsonl",
        (*TARGET, "chat_template_kwargs", "prompts"),
        reads_target=True,
    ),
    Step("privacy", "prompts.jsonl", ("privacy",)),
    Step(
        "answers",
        "conversations.jsonl",
        (
            *TARGET,
            "target_dtype",
            "chat_template_kwargs",
            "answers.max_new_tokens",
            "answers.temperature",
            "answers.seed",
            "answers.max_length",
            "answers.model",
            "answers.request_fields",
        ),
        reads_target=True,
        grows=True,
    ),
    Step("conversations", "conversations.jsonl", ("privacy",)),
    Step(
        "examples",
        "examples.jsonl",
        (*TARGET, "chat_template_kwargs", "examples.max_length", "examples.train_on"),
        reads_target=True,
    ),
    Step(
        "features",
        None,
        (*TARGET, "target_dtype", "features"),
        reads_target=True,
    ),
)
BY_NAME = {step.name: step for step in STEPS}


def steps_of(config: DataConfig) -> list[Step]:
    """The steps that a run has, in their order."""
    return [step for step in STEPS if step.name in config.steps]


def settings_of(step: Step, config: DataConfig) -> dict[str, Any]:
    """The settings that a step's result depends on, by their whole names."""
    chosen = {}
    for name, value in flat(asdict(config)).items():
        section = name.split(".")[0]
        if name in step.settings or section in step.settings:
            chosen[name] = value
    if step.name == "answers":
        chosen["answers.in_process"] = not config.answers.servers
        if config.answers.servers:
            # Servers have a dtype and a limit of their own.
            del chosen["target_dtype"]
            del chosen["answers.max_length"]
    if step.name == "conversations":
        is_filtered = "privacy" in config.steps
        chosen = chosen if is_filtered else {}
        chosen["privacy"] = is_filtered
    return chosen


def default_settings() -> dict[str, Any]:
    """The default of every setting that has one, by its whole name."""
    defaults: dict[str, Any] = {"answers.in_process": True, "privacy": True}
    for name, kind in get_type_hints(DataConfig).items():
        if is_dataclass(kind):
            defaults |= {f"{name}.{key}": value for key, value in _field_defaults(kind).items()}
    return defaults | _field_defaults(DataConfig)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their whole names: `answers.max_new_tokens`.

    Args:
        settings: of a `DataConfig`, as `asdict` gives them.

    Returns:
        The settings without sections.
    """
    sections = {name for name, kind in get_type_hints(DataConfig).items() if is_dataclass(kind)}
    values = {}
    for name, value in settings.items():
        if name not in sections:
            values[name] = value
            continue
        for key, own in value.items():
            values[f"{name}.{key}"] = own
    return values


def _field_defaults(kind: Any) -> dict[str, Any]:
    """The defaults of a dataclass's plain fields."""
    defaults = {}
    for field in fields(kind):
        if field.default is not MISSING:
            defaults[field.name] = field.default
        elif field.default_factory in (list, dict):
            defaults[field.name] = field.default_factory()
    return defaults
