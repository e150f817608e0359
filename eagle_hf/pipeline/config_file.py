"""A run's YAML file, and flags laid over it, as a `DataConfig`; what does not fit is named.

Nothing is guessed: an unknown key, a key that stands twice and a value of another type are refused
with the key's whole name, such as `answers.max_new_tokens`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from yaml.constructor import ConstructorError

from eagle_hf.pipeline.settings import STEPS, DataConfig

KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def read_config(path: str | Path | None, flags: Mapping[str, Any] | None = None) -> DataConfig:
    """Read the settings of a run.

    Args:
        path: of a YAML file; None where the flags are all there is.
        flags: values by their whole names, such as `{"answers.max_new_tokens": 64}`. They win.

    Returns:
        The settings.

    Raises:
        ValueError: the file is no YAML mapping, or a key or value does not fit.
    """
    settings = {} if path is None else read_yaml(path)
    for name, value in (flags or {}).items():
        section, dot, key = name.partition(".")
        if not dot:
            settings[name] = value
            continue
        own = settings.setdefault(section, {})
        if not isinstance(own, dict):
            raise ValueError(f"{section} is {own!r}; a mapping of its keys is needed")
        own[key] = value
    config = from_mapping(DataConfig, settings)
    for name in STEPS:
        if name in settings and name not in config.steps:
            raise ValueError(
                f"{name} has settings and is none of the steps ({', '.join(config.steps)}); add "
                "it to steps, or leave its settings out (--only runs a part)"
            )
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: of the file.

    Returns:
        The mapping.

    Raises:
        ValueError: it cannot be read, is no mapping, or has a key twice.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            settings = yaml.load(file, _StrictLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(
            f"{path} holds {settings!r}; a mapping such as `target: smollm2` is needed"
        )
    return settings


def from_mapping(kind: Any, settings: Mapping[str, Any], prefix: str = "") -> Any:
    """Make a dataclass of settings.

    Args:
        kind: the dataclass. Fields that are dataclasses are made from mappings.
        settings: values by the names of its fields.
        prefix: stands before a name in errors: "answers.".

    Returns:
        The dataclass.

    Raises:
        ValueError: a key is unknown or missing, or a value does not fit.
    """
    types = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    _check_names(settings, list(known), prefix)
    values = {}
    for name, value in settings.items():
        field = known[name]
        values[name] = _checked(value, types[name], prefix + name)
        _check_choices(values[name], field.metadata.get("choices"), prefix + name)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"the settings are incomplete ({error}); add what is missing") from error


def _check_names(settings: Mapping[str, Any], known: list[str], prefix: str) -> None:
    """Refuse keys that no field has, each with its nearest right name."""
    for name in settings:
        if name in known:
            continue
        near = difflib.get_close_matches(str(name), known, n=1)
        advice = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"there is no setting {prefix}{name}; {advice}")


def _checked(value: Any, annotation: Any, name: str) -> Any:
    """The value of a setting in its type."""
    if is_dataclass(annotation):
        return _checked_section(value, annotation, name)
    options = [option for option in get_args(annotation) if option is not NoneType]
    may_be_none = NoneType in get_args(annotation)
    if value is None and may_be_none:
        return None
    kind = options[0] if may_be_none else annotation
    if get_origin(kind) is list:
        return _checked_list(value, get_args(kind)[0], name)
    if get_origin(kind) is dict:
        return _checked_mapping(value, get_args(kind)[1], name)
    return _checked_scalar(value, kind, name)


def _checked_section(value: Any, kind: Any, name: str) -> Any:
    """The settings of a step; an empty section of a YAML file is None."""
    section = {} if value is None else value
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} is {value!r}; a mapping of its keys is needed")
    return from_mapping(kind, section, f"{name}.")


def _checked_list(value: Any, kind: type, name: str) -> list[Any]:
    """A list, each part in its type."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r}; a list is needed, such as [{value}]")
    return [_checked_scalar(part, kind, name) for part in value]


def _checked_mapping(value: Any, kind: Any, name: str) -> dict[str, Any]:
    """A mapping, each value in its type."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}; a mapping is needed, such as {{key: value}}")
    if kind is Any:
        return dict(value)
    return {str(key): _checked_scalar(part, kind, f"{name}.{key}") for key, part in value.items()}


def _checked_scalar(value: Any, kind: type, name: str) -> Any:
    """A text, number or truth value in its type."""
    if kind is float and not isinstance(value, bool):
        # YAML takes 1e-3 for a text.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    is_bool_as_number = isinstance(value, bool) and kind is not bool
    if isinstance(value, kind) and not is_bool_as_number:
        return value
    raise ValueError(f"{name} is {value!r}; {KINDS[kind]} is needed")


def _check_choices(value: Any, choices: Any, name: str) -> None:
    """Refuse a value, or a part of a list, that is none of those there are."""
    if choices is None:
        return
    for part in value if isinstance(value, list) else [value]:
        if part not in choices:
            raise ValueError(f"{name} is {part!r}; take one of {', '.join(choices)}")


class _StrictLoader(yaml.SafeLoader):
    """A loader that refuses a key that stands twice; YAML's own takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
