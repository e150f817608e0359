"""What a chat template is given beside the messages: variables, tools and the date.

A thinking mode (`enable_thinking`), an effort (`reasoning_effort`) or the tools that may be called
change the prompt, and so what the target says. Data must be rendered with those of service.

Templates that write today's date would render the same conversation differently tomorrow, so a
run has one date.
"""

import datetime
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.rows import describe_type

# What apply_chat_template means by itself; `documents` is the template's.
RESERVED = {"messages", *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters}
RESERVED -= {"documents"}
DATE_CALL = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>[^'\"]*)(?P=quote)\s*\)")


@dataclass(frozen=True)
class TemplateArguments:
    """Arguments of a chat template.

    Attributes:
        variables: names that the template reads, such as `enable_thinking`, and their values.
        tools: JSON schemas of the tools that may be called; None for no tools.
        date: what the template takes for today.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    date: datetime.date = field(default_factory=datetime.date.today)

    def __post_init__(self) -> None:
        taken = sorted(RESERVED.intersection(self.variables))
        if taken:
            raise ValueError(
                f"chat_template_kwargs hold {', '.join(taken)}, which is no variable of a "
                "template; give messages and tools in the row, and leave the others out"
            )

    @classmethod
    def read(cls, chat_template_kwargs: object) -> "TemplateArguments":
        """Read the arguments that a command line or a configuration gives.

        Args:
            chat_template_kwargs: a mapping, a JSON object as text, or None.

        Returns:
            The arguments, with today's date and no tools.

        Raises:
            ValueError: it is something else, or holds what is no variable of a template.
        """
        return cls(read_variables(chat_template_kwargs))

    def for_row(self, row: Mapping[str, Any]) -> "TemplateArguments":
        """The arguments of one row: its own variables win over those of the run.

        Args:
            row: may hold `chat_template_kwargs` and `tools`, each also as JSON text.

        Raises:
            ValueError: they are not what they should be.
        """
        own = read_variables(row.get("chat_template_kwargs"))
        tools = _read_tools(row.get("tools"))
        if not own and not tools:
            return self
        return replace(self, variables={**self.variables, **own}, tools=tools or self.tools)

    def dated(self, template: str) -> str:
        """The template with the run's date where it asks for today.

        Args:
            template: Jinja source.

        Raises:
            ValueError: the template computes the form of the date.
        """
        if "strftime_now" not in template:
            return template
        dated = DATE_CALL.sub(self._written_date, template)
        if "strftime_now(" in dated:
            raise ValueError(
                "the chat template computes in which form it writes today's date, so a run cannot "
                "have one date; write the form into the template: strftime_now('%Y-%m-%d')"
            )
        return dated

    def _written_date(self, call: re.Match) -> str:
        """The date as a literal, in the form that a template asks for."""
        return repr(self.date.strftime(call["format"]))

    def check_read_by(self, template: str) -> None:
        """Refuse variables that a template never reads, such as misspelt ones.

        Args:
            template: Jinja source.

        Raises:
            ValueError: names them.
        """
        unread = [name for name in self.variables if name not in template]
        if unread:
            raise ValueError(
                f"the chat template reads no {', '.join(unread)}, so chat_template_kwargs would "
                "change nothing; leave it out, or correct its name"
            )


def read_variables(value: object) -> dict[str, Any]:
    """Read template variables from a row or a command line.

    Args:
        value: a mapping, a JSON object as text, or None. Fields that are None are left out: tables
            hold them for the rows without that variable.

    Returns:
        Names and values.

    Raises:
        ValueError: it is something else.
    """
    if value is None or value == "":
        return {}
    variables = _from_json(value, "chat_template_kwargs")
    if not isinstance(variables, Mapping):
        raise ValueError(
            f"chat_template_kwargs is {describe_type(variables)}; give a JSON object such as "
            '{"enable_thinking": false}'
        )
    return {str(name): one for name, one in variables.items() if one is not None}


def _read_tools(value: object) -> list[dict[str, Any]] | None:
    """The tools of a row; None where it has none."""
    if value is None or value == "":
        return None
    tools = _from_json(value, "tools")
    is_list = isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)
    if not is_list:
        raise ValueError(f"tools is {describe_type(tools)}; give a list of JSON schemas")
    # Tables fill the fields that a tool lacks with None.
    return [_without_none(tool) for tool in tools] or None


def _from_json(value: object, name: str) -> Any:
    """What JSON text holds; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"{name} is no JSON ({error}): {value!r:.80}") from error


def _without_none(value: Any) -> Any:
    """The value without the fields that are None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_none(one) for one in value]
    return value


def tool_names(tools: list[dict[str, Any]] | None) -> list[str]:
    """The names of tools that have one, in order."""
    names = []
    for tool in tools or ():
        function = tool.get("function") or tool
        if isinstance(function.get("name"), str):
            names.append(function["name"])
    return names
