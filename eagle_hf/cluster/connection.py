"""The Ray cluster that a run works on, and how its name is written.

ray               the cluster that runs on this machine, else one of this process alone
ray://host:port   a cluster elsewhere, by Ray's client port (10001)
"""

from __future__ import annotations

from typing import Any

LOCAL = "ray"
CLIENT = "ray://"
HEAD_RESOURCE = "node:__internal_head__"  # Ray's own mark of the head node


def is_ray(executor: str) -> bool:
    """Whether a name stands for a Ray cluster.

    Args:
        executor: as `--executor` has it.

    Returns:
        True for "ray" and for what begins with "ray:".
    """
    return executor == LOCAL or executor.startswith("ray:")


def connect(executor: str) -> Any:
    """Connect this process to a Ray cluster, unless it is connected already.

    Args:
        executor: "ray" or "ray://host:port".

    Returns:
        The module `ray`, connected.

    Raises:
        ValueError: Ray is not installed, the name is none, or no cluster answers there.
    """
    _check_name(executor)
    ray = import_ray()
    if ray.is_initialized():
        return ray
    address = None if executor == LOCAL else executor
    try:
        # Workers return their errors; what they print would only cover the progress bar.
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster could be reached at {executor} ({error}); start one with "
            "`ray start --head`, or check the host and the client port"
        ) from error
    return ray


def import_ray() -> Any:
    """Import Ray, with its library of data sets.

    Returns:
        The module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import ray
        import ray.data  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a run on a cluster needs Ray ({error}); pip install 'eagle_hf[cluster]' on every node"
        ) from error
    return ray


def has_gpus(ray: Any) -> bool:
    """Whether any node of the cluster has a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0


def _check_name(executor: str) -> None:
    """Refuse what only looks like the name of a cluster."""
    host, colon, port = executor.removeprefix(CLIENT).rpartition(":")
    has_address = executor.startswith(CLIENT) and bool(host) and bool(colon) and port.isdigit()
    if executor != LOCAL and not has_address:
        raise ValueError(
            f"the executor is {executor!r}; write ray for this machine, or ray://host:10001"
        )
