"""The rows of metrics.json as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    "method",
    "temperature",
    "batch",
    "category",
    "prompts",
    "tau",
    "tokens/s",
    "over generate",
    "over loop",
    "identical",
)
TIER_COLUMNS = ("method", "temperature", "batch", "low entropy", "mid", "high")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `summaries`, and the methods that failed.

    Args:
        rows: as `summaries` returns them.

    Returns:
        Markdown.
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    measured = [row for row in rows if "failed" not in row]
    lines += [_line(row) for row in measured]
    for row in rows:
        if "failed" in row:
            cells = [row["method"], _text(row["temperature"]), _text(row["batch"])]
            reason = row["failed"].replace("|", "/")
            rest = " |" * (len(COLUMNS) - len(cells) - 1)
            lines.append("| " + " | ".join([*cells, f"failed: {reason}"]) + f" |{rest}")
    return "\n".join(lines)


def tier_table(rows: Sequence[dict[str, Any]]) -> str:
    """Speed over plain decoding and tau, by the entropy of the answers.

    Args:
        rows: as `summaries` returns them.

    Returns:
        Markdown; "" where there are no tiers.
    """
    lines = []
    for row in rows:
        tiers = row.get("by_entropy")
        if not tiers or row["tau"] is None:
            continue
        if not lines:
            lines = ["| " + " | ".join(TIER_COLUMNS) + " |", "|---" * len(TIER_COLUMNS) + "|"]
        cells = [row["method"], f"{row['temperature']:g}", str(row["batch"])]
        cells += [_tier(part) for part in tiers.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _tier(part: Mapping[str, Any]) -> str:
    """One method in one tier."""
    low, high = part["entropy"]
    tau = "" if part["tau"] is None else f", tau {part['tau']:.2f}"
    speed = "" if part["speedup"] is None else f"{part['speedup']:.2f}x{tau}"
    return f"{speed} ({low:.2f}-{high:.2f} nats)"


def _line(row: Mapping[str, Any]) -> str:
    """A line of the table."""
    identical = "" if row["identical"] is None else f"{row['identical']:.0%}"
    if row["ties"]:
        identical += f" (+{row['ties']} ties)"
    if row["errors"]:
        identical += f" ({sum(row['errors'].values())} errors)"
    cells = [
        row["method"],
        f"{row['temperature']:g}",
        str(row["batch"]),
        row["category"],
        str(row["prompts"]),
        _with_interval(row, "tau"),
        _with_interval(row, "tokens_s", digits=1),
        _with_interval(row, "speedup"),
        _with_interval(row, "over_loop"),
        identical,
    ]
    return "| " + " | ".join(cells) + " |"


def _with_interval(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """A number with its 95 % interval; "" where it was not measured."""
    if row[name] is None:
        return ""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _text(value: float | None) -> str:
    """A setting's value; "" where there is none."""
    return "" if value is None else f"{value:g}"
