"""Libraries that rules rest on: imported when a scanner is made, refused by name if missing."""

from importlib import import_module
from types import ModuleType


def import_library(module: str, package: str, extra: str) -> ModuleType:
    """Import a module of an optional library.

    Args:
        module: its dotted name.
        package: what pip calls the library.
        extra: of this package that installs it.

    Returns:
        The module.

    Raises:
        ValueError: the library is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the privacy rules need {package}, and {error.name} is not installed; "
            f"run: pip install {package} (the extra {extra!r} has all that is needed)"
        ) from error
