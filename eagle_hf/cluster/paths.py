"""Paths that mean the same on a worker, whose working directory is another one."""

from dataclasses import replace
from pathlib import Path

from eagle_hf.data.reading.remote_files import is_url
from eagle_hf.pipeline import DataConfig


def for_workers(config: DataConfig) -> DataConfig:
    """Make the paths of a configuration absolute.

    Args:
        config: of the run; it is not changed.

    Returns:
        The configuration. Names of the Hub, and URLs, are as they were.
    """
    features = replace(
        config.features,
        head=_if_there(config.features.head),
        engine_states=_if_there(config.features.engine_states),
    )
    storage = config.cluster.storage
    cluster = config.cluster
    if storage is not None:
        cluster = replace(cluster, storage=everywhere(storage))
    return replace(
        config,
        target=_if_there(config.target),
        adapter=_if_there(config.adapter),
        tokenizer=_if_there(config.tokenizer),
        features=features,
        cluster=cluster,
    )


def everywhere(folder: str) -> str:
    """A folder as every process finds it.

    Args:
        folder: a path, which need not exist, or a URL.
    """
    return folder if is_url(folder) else str(Path(folder).resolve())


def _if_there(name: str | None) -> str | None:
    """The absolute path of a file or folder; other names as they are."""
    if name is None or not Path(name).exists():
        return name
    return str(Path(name).resolve())
