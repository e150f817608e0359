"""Prompt sets that come with the package; bundled/SOURCES.md has origins and licences."""

from importlib import resources
from pathlib import Path


def bundled_names() -> list[str]:
    """List the prompt sets that come with the package.

    Returns:
        Their names, sorted.
    """
    return sorted(file.stem for file in _folder().glob("*.jsonl"))


def bundled_prompts(name: str) -> Path:
    """Find a prompt set that comes with the package; bundled/SOURCES.md has origins and licences.

    Args:
        name: of the set, such as "train_math_reasoning_gym".

    Returns:
        A JSON-lines file for `read_prompts`.

    Raises:
        ValueError: no set has this name; the error lists the names.
    """
    # A name that is not listed never becomes a path: "../x" is refused.
    names = bundled_names()
    if name not in names:
        raise ValueError(f"no bundled prompts are called {name!r}; take one of {', '.join(names)}")
    return _folder() / f"{name}.jsonl"


def _folder() -> Path:
    """Where the sets lie."""
    return Path(str(resources.files("eagle_hf.data") / "bundled"))
