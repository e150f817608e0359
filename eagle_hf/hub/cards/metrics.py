"""Reading metrics.json of a head."""

from typing import Any

Metrics = dict[str, Any]
# category -> what was measured: tau, alpha, tokens per second, ...
Results = dict[str, dict[str, Any]]


def head_fingerprint(metrics: Metrics) -> str | None:
    """The fingerprint of the weights that were measured.

    Args:
        metrics: What metrics.json holds.

    Returns:
        The fingerprint, which older files call `head_sha256`; None where there is none.
    """
    if "head_fingerprint" in metrics:
        return metrics["head_fingerprint"]
    return metrics.get("head_sha256")


def results_of(metrics: Metrics, tree: str, temperature: float = 0.0) -> dict[str, Results]:
    """Results of a tree at a temperature.

    Args:
        metrics: What metrics.json holds.
        tree: As "policy:depth:top_k:nodes".
        temperature: 0 is greedy.

    Returns:
        dtype -> results by category, in the order in which the dtypes were measured.
    """
    results = {}
    for setting in metrics["settings"]:
        if setting["tree"] == tree and setting["temperature"] == temperature:
            results[setting["dtype"]] = setting["results"]
    return results
