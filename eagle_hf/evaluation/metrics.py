"""metrics.json of an evaluation: one schema for `eagle-hf evaluate`, the quickstart and the recipe.

{"head_fingerprint": "f28a...",
 "settings": [{"dtype": "bfloat16", "tree": "dynamic:4:4:12", "temperature": 0.0,
               "max_new_tokens": 64, "left_out": 20,
               "machine": {"device": ..., "threads": ..., ...},
               "results": {"chat": {"tau": 2.4, ...}, ..., "all": {...}}},
              ...]}
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from eagle_hf.evaluation.offline import Summary
from eagle_hf.provenance import dtype_name, machine

METRICS = "metrics.json"
FINGERPRINT = "head_fingerprint"
OLD_FINGERPRINT = "head_sha256"  # what files before November 2026 call it


class MeasuredSetting(TypedDict):
    """What was measured of a head in one way of decoding.

    dtype: of target and head. tree: policy:depth:top_k:nodes, or "by machine". temperature: 0 is
    greedy. max_new_tokens: of each answer. left_out: prompts of each category that the head was
    chosen on, and that were not measured. machine: where. results: a summary per category.
    """

    dtype: str
    tree: str
    temperature: float
    max_new_tokens: int
    left_out: int
    machine: dict[str, Any]
    results: dict[str, dict[str, Any]]


class Metrics(TypedDict):
    """The content of metrics.json: whose weights were measured, and in which settings."""

    head_fingerprint: str
    settings: list[MeasuredSetting]


def measured_setting(
    target: Any,
    summaries: dict[str, Summary],
    *,
    tree: str,
    temperature: float,
    max_new_tokens: int,
    left_out: int = 0,
) -> MeasuredSetting:
    """Describe one measurement as metrics.json keeps it.

    Args:
        target: the target, on the device and in the dtype that it was measured in.
        summaries: as `by_category` returns them.
        tree, temperature, max_new_tokens, left_out: see `MeasuredSetting`.

    Returns:
        The entry of `settings`.
    """
    return {
        "dtype": dtype_name(target),
        "tree": tree,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "left_out": left_out,
        "machine": machine(target),
        "results": plain_results(summaries),
    }


def plain_results(summaries: dict[str, Summary]) -> dict[str, dict[str, Any]]:
    """Turn summaries into what JSON can hold.

    Args:
        summaries: as `by_category` returns them.

    Returns:
        A dictionary per category. Tau and its interval are None where no round was needed,
        because JSON knows no nan.
    """
    results = {}
    for name, summary in summaries.items():
        result = asdict(summary)
        if math.isnan(result["tau"]):
            result["tau"] = None
            result["tau_interval"] = None
        results[name] = result
    return results


def write_metrics(folder: str | Path, metrics: Metrics | dict[str, Any]) -> None:
    """Write metrics.json into an existing folder.

    Args:
        folder: where.
        metrics: what was measured.
    """
    Path(folder, METRICS).write_text(json.dumps(metrics, indent=1) + "\n")


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """Read metrics.json, also of a folder that was written before `head_fingerprint` had its name.

    Args:
        folder: where it lies.

    Returns:
        Its content, the fingerprint under its present name.
    """
    return rename_fingerprint(json.loads(Path(folder, METRICS).read_text()))


def rename_fingerprint(content: dict[str, Any]) -> dict[str, Any]:
    """The same content, with the fingerprint of an older file under its present name."""
    renamed = {}
    for key, value in content.items():
        renamed[FINGERPRINT if key == OLD_FINGERPRINT else key] = value
    return renamed
