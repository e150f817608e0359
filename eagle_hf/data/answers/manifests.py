"""What makes a folder of answers: written into its manifest, and compared by the next run."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle_hf.data.answers.settings import ServingSettings
from eagle_hf.data.examples.turns import ROW_FORMAT
from eagle_hf.data.manifest import MANIFEST, read_manifest
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import template_sha256

# Fields of the manifest that two runs in one folder must have in common. The format is none of
# them: rows of an older one stay as they are.
COMMON = ("step", "chat_template_kwargs", "max_new_tokens", "temperature", "seed")
OF_TARGET = (*COMMON, "target_weights", "template_sha256")
OF_SERVERS = (*COMMON, "model", "request_fields")


def target_manifest(
    *,
    fingerprint: str,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TemplateArguments,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> dict[str, Any]:
    """The manifest of answers that the target itself writes; `OF_TARGET` of it must not change.

    Args:
        fingerprint: of the target's weights.
        tokenizer: its tokenizer.
        arguments: of the chat template.
        max_new_tokens: longest answer to one turn.
        temperature: 0 is greedy.
        seed: of all sampling.

    Returns:
        The fields that every such run has; the caller adds its own.
    """
    return {
        "step": "responses",
        "format": ROW_FORMAT,
        "target_weights": fingerprint,
        "template_sha256": template_sha256(tokenizer),
        **_of_template(arguments),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
    }


def servers_manifest(settings: ServingSettings) -> dict[str, Any]:
    """The manifest of answers that servers write; `OF_SERVERS` of it must not change.

    Args:
        settings: how the servers are asked.

    Returns:
        The fields that every such run has; the caller adds its own.
    """
    return {
        "step": "served responses",
        "format": ROW_FORMAT,
        "model": settings.model,
        **_of_template(settings.template_arguments),
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "request_fields": dict(settings.request_fields),
    }


def _of_template(arguments: TemplateArguments) -> dict[str, Any]:
    """What the template is given."""
    return {
        "chat_template_kwargs": dict(arguments.variables) or None,
        "date": arguments.date.isoformat(),
    }


def with_date_of(folder: Path, arguments: TemplateArguments | None) -> TemplateArguments:
    """Date the arguments of a template with the day on which a folder was begun.

    Args:
        folder: that answers are written to.
        arguments: of the run. None: no variables, and today.

    Returns:
        The arguments, with the folder's date where it has one.

    Raises:
        ValueError: the folder's manifest is no JSON object.
    """
    arguments = arguments or TemplateArguments()
    if not (folder / MANIFEST).exists():
        return arguments
    found = read_manifest(folder).get("date")
    if found is None:
        return arguments
    return replace(arguments, date=datetime.date.fromisoformat(found))
