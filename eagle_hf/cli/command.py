"""A sub-command, and its flags, which are made from the fields of a dataclass.

The field `per_category: int = field(default=8, metadata={"help": "Prompts of each."})` becomes the
flag `--per-category`. The metadata may also hold:

- `choices`, `metavar`: as argparse knows them.
- `action`: the same; "extend" lets a flag of a list, empty by default, be given several times.
- `positional`: whether the field is a positional argument.
- `unrecorded`: whether it changes nothing that is measured, so that no file holds it.
- `one_of`: the name of a group; exactly one flag of the group must be given.

Settings that a YAML file holds become flags of another kind: `--answers.max_new_tokens`, named as
in the file. Of those, only the given ones are read.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Command:
    """A sub-command.

    Args:
        name: as it is typed.
        summary: its line in `eagle-hf --help`.
        arguments: the dataclass whose fields are its flags.
        run: takes such a dataclass; returns the exit status, None for 0.
    """

    name: str
    summary: str
    arguments: type
    run: Callable[[Any], int | None]

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's flags to its parser."""
        add_arguments(parser, self.arguments)

    def read_flags(self, options: argparse.Namespace) -> Any:
        """What `run` takes, from what was parsed."""
        return read_arguments(self.arguments, options)


def add_settings(parser: argparse.ArgumentParser, settings: Any) -> None:
    """Add a flag for each setting that a YAML file may hold, sections included.

    Args:
        parser: where the flags are added.
        settings: a dataclass. Its fields are those of `add_arguments`, mappings, or dataclasses.
    """
    sections = {}
    plain = parser.add_argument_group("settings of the file")
    for field, kind in _typed_fields(settings):
        if is_dataclass(kind):
            sections[field.name] = kind
        else:
            _add_setting(plain, field.name, field, kind)
    for name, section in sections.items():
        group = parser.add_argument_group(f"settings of {name}", section.__doc__)
        for field, kind in _typed_fields(section):
            _add_setting(group, f"{name}.{field.name}", field, kind)


def read_settings(settings: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags, by their whole names.

    Args:
        settings: the dataclass that `add_settings` was given.
        options: what the parser returned.

    Returns:
        Values by names such as `answers.max_new_tokens`.
    """
    names = []
    for field, kind in _typed_fields(settings):
        if is_dataclass(kind):
            names += [f"{field.name}.{own.name}" for own in fields(kind)]
        else:
            names.append(field.name)
    given = vars(options)
    return {name: given[name] for name in names if name in given}


def add_arguments(parser: argparse.ArgumentParser, arguments: Any) -> None:
    """Add a flag for each field of a dataclass.

    Args:
        parser: where the flags are added.
        arguments: the dataclass. Its fields are str, int, float, bool or Path, lists of them, or
            None.
    """
    types = get_type_hints(arguments)
    groups: dict[str, Any] = {}
    for field in fields(arguments):
        group_name = field.metadata.get("one_of")
        if group_name is not None and group_name not in groups:
            groups[group_name] = parser.add_mutually_exclusive_group(required=True)
        options = _options(field, types[field.name])
        if field.metadata.get("positional"):
            parser.add_argument(field.name, **options)
            continue
        flag = "--" + field.name.replace("_", "-")
        if _is_required(field):
            options["required"] = True
        groups.get(group_name, parser).add_argument(flag, **options)


def read_arguments(arguments: Any, options: argparse.Namespace) -> Any:
    """Make the dataclass from what was parsed.

    Args:
        arguments: the dataclass that `add_arguments` was given.
        options: what the parser returned.

    Returns:
        The dataclass.

    Raises:
        ValueError: whatever its `__post_init__` refuses.
    """
    values = {}
    for field in fields(arguments):
        values[field.name] = getattr(options, field.name)
    return arguments(**values)


def _typed_fields(settings: Any) -> list[tuple[Field, Any]]:
    """The fields of a dataclass with their types."""
    types = get_type_hints(settings)
    return [(field, types[field.name]) for field in fields(settings)]


def _add_setting(group: Any, name: str, field: Field, annotation: Any) -> None:
    """Add the flag of a setting, and the same with dashes, which the help leaves out."""
    options = _options(field, annotation)
    if options.get("action") == "store_true":
        options["action"] = argparse.BooleanOptionalAction
    # What is not given is the file's.
    options["default"] = argparse.SUPPRESS
    if "choices" not in options and "type" in options:
        options.setdefault("metavar", field.name.upper())
    group.add_argument(f"--{name}", dest=name, **options)
    dashed = name.replace("_", "-")
    if dashed != name:
        options["help"] = argparse.SUPPRESS
        group.add_argument(f"--{dashed}", dest=name, **options)


def _json_object(text: str) -> Any:
    """A mapping from the command line."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object such as {{"key": 1}}')
    return value


def _options(field: Field, annotation: Any) -> dict[str, Any]:
    """What `add_argument` needs to know about a field."""
    default = _default(field)
    options: dict[str, Any] = {"default": default, "help": _help(field, default)}
    for name in ("choices", "metavar", "action"):
        if name in field.metadata:
            options[name] = field.metadata[name]
    kind = _without_none(annotation)
    if kind is bool:
        options["action"] = "store_true"
    elif get_origin(kind) is dict:
        options["type"] = _json_object
        options["metavar"] = "JSON"
    elif get_origin(kind) is list:
        options["nargs"] = "+"
        options["type"] = get_args(kind)[0]
    else:
        options["type"] = kind
    if field.metadata.get("positional") and not _is_required(field):
        options["nargs"] = "?"
    return options


def _help(field: Field, default: Any) -> str:
    """The field's help, with its default unless there is none or the help says it."""
    text = field.metadata["help"]
    has_none = default is None or isinstance(default, bool) or default in ([], {})
    if has_none or "default:" in text:
        return text
    shown = default
    if isinstance(default, list):
        shown = " ".join(str(part) for part in default)
    return f"{text} (default: {shown})"


def _default(field: Field) -> Any:
    """A field's default, None for a required one."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _is_required(field: Field) -> bool:
    """Whether a field has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def _without_none(annotation: Any) -> Any:
    """`str` of `str | None`; any other type as it is."""
    parts = [part for part in get_args(annotation) if part is not NoneType]
    is_optional = NoneType in get_args(annotation)
    return parts[0] if is_optional else annotation
