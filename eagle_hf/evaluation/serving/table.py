"""The runs of serving.json as Markdown, with the meaning of every column."""

from collections.abc import Mapping, Sequence
from typing import Any

from eagle_hf.evaluation.serving.load import CLOSED
from eagle_hf.evaluation.serving.measures import ALL, DEFINITIONS

TIMES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
COLUMNS = (
    "server",
    "load",
    "requests",
    *(f"{name.removesuffix('_ms')} ms" for name in TIMES),
    "tokens/s",
    "goodput/s",
    "tau",
)


def serving_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All runs of mixed categories; times as median / p99."""
    return _table(COLUMNS, [_cells(row) for row in rows if row["category"] == ALL])


def category_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of single categories; "" where there are none."""
    own = []
    for row in rows:
        if row["category"] != ALL:
            own.append([row["category"], *_cells(row)])
    return _table(("category", *COLUMNS), own) if own else ""


def definitions_text() -> str:
    """What the columns mean, a line each."""
    return "\n".join(f"- {name}: {text}" for name, text in DEFINITIONS.items())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for cells in rows:
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    """A row's cells, from its server on; what was not measured is empty."""
    throughput = row["output_tokens_s"]
    goodput = row["goodput"]
    acceptance = row["acceptance"]
    return [
        _server(row),
        _load(row["arrival"]),
        _requests(row),
        *(_spread(row[name]) for name in TIMES),
        "" if throughput is None else f"{throughput:.1f}",
        "" if goodput is None else f"{goodput['requests_s']:.2f}",
        "" if acceptance is None else f"{acceptance['tau']:.2f}",
    ]


def _server(row: Mapping[str, Any]) -> str:
    """The label, and who measured where it was not this package."""
    source = row.get("source")
    return f"{row['label']} ({source})" if source else row["label"]


def _load(arrival: Mapping[str, Any] | None) -> str:
    """How requests arrived."""
    if arrival is None:
        return ""
    if arrival["kind"] == CLOSED:
        return f"{arrival['concurrency']} at a time"
    return f"{arrival['rate']:g}/s"


def _requests(row: Mapping[str, Any]) -> str:
    """Whole answers of all requests, and why the others failed."""
    counts = row["requests"]
    text = f"{counts['finished']} of {counts['sent']}"
    notes = [f"{number} {reason}" for reason, number in counts["failed"].items()]
    if counts.get("without_token_counts"):
        notes.append(f"{counts['without_token_counts']} without token counts")
    if row.get("interrupted"):
        notes.append("run interrupted")
    return f"{text} ({', '.join(notes)})" if notes else text


def _spread(value: Mapping[str, float] | None) -> str:
    """Median / p99."""
    if value is None:
        return ""
    p99 = value["p99"]
    return f"{value['median']:.1f}" if p99 is None else f"{value['median']:.1f} / {p99:.1f}"
