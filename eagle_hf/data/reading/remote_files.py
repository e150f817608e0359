"""Files behind URLs: s3://bucket/prompts.jsonl and whatever else fsspec opens."""

from pathlib import Path

import fsspec


def is_url(name: str | Path) -> bool:
    """Whether a name is a URL, and no path.

    Args:
        name: of a file.
    """
    return isinstance(name, str) and "://" in name


def local_copy(url: str) -> Path:
    """Fetch a file, so that it is read like a local one.

    Args:
        url: of the file. Credentials come from the environment.

    Returns:
        A copy with the file's own name, which is deleted when this process ends.

    Raises:
        ValueError: the file does not exist, or the package for its kind of URL is not installed.
    """
    try:
        copy = fsspec.open_local(f"simplecache::{url}", simplecache={"same_names": True})
    except FileNotFoundError as error:
        raise ValueError(f"{url} does not exist; give the URL of a file") from error
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} cannot be opened ({error}); install that package") from error
    assert isinstance(copy, str), "one URL is one file"
    return Path(copy)
