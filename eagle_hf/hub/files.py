"""Files of a folder or hub repository: found without leaving it, and read without executing it."""

from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from eagle_hf.head.opening import HUB_OPTIONS, contained, read_json

# The weights of a model: one file, or the index of several.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")


def check_hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of the options for the Hub; a ValueError for one that the Hub does not know."""
    unknown = sorted(set(options) - set(HUB_OPTIONS))
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} is no option of the hub; known are {', '.join(HUB_OPTIONS)}"
        )
    return dict(options)


def find_file(source: str | Path, name: str, hub: dict[str, Any]) -> Path | None:
    """The file of that name in a folder or hub repository; None where there is none."""
    file = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
    return None if file is None else contained(file, source)


def read_chat_template(source: str | Path, hub: dict[str, Any]) -> str | None:
    """The chat template, from its own file or from the tokenizer's config; None without one."""
    file = find_file(source, "chat_template.jinja", hub)
    if file is not None:
        return file.read_text(encoding="utf-8", errors="replace")
    file = find_file(source, "tokenizer_config.json", hub)
    if file is None:
        return None
    template = read_json(file).get("chat_template")
    # Older tokenizers hold a list of named templates, which says nothing of the one in use.
    return template if isinstance(template, str) else None
