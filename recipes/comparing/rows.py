"""The rows of compare_engines.py's table: answers, the numbers that they give, and Markdown."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from eagle_hf.measuring import median_interval, ratio_interval

NAMES = {
    "eagle_hf": "transformers `generate`",
    "llamacpp": "llama.cpp",
    "openvino": "OpenVINO GenAI",
    "vllm": "vLLM",
}


@dataclass(frozen=True)
class Setup:
    """An engine, what it computes in, and whether it compiles ("native": it is compiled)."""

    engine: str
    dtype: str
    mode: str


@dataclass
class Row:
    """A row of the table while it is measured.

    Attributes:
        setup: What runs.
        drafts: What the head drafts, by name; "plain" without the head.
        answers: Of every prompt, once a repeat, as comparing/answering.py describes them.
        versions: Of the engine's packages.
        failure: Why the engine could not go on.
    """

    setup: Setup
    drafts: str
    answers: list[list[dict[str, Any]]]
    versions: dict[str, str] = field(default_factory=dict)
    failure: str | None = None

    @property
    def is_measured(self) -> bool:
        """Whether every prompt was answered as often as was asked for."""
        return self.failure is None

    def speeds(self) -> list[float]:
        """Tokens per second of each prompt."""
        speeds = []
        for answers in self.answers:
            seconds = statistics.median(answer["decode_seconds"] for answer in answers)
            speeds.append((answers[0]["tokens"] - 1) / seconds)
        return speeds

    def seconds(self) -> float:
        """Seconds of a whole call, in the median prompt."""
        medians = []
        for answers in self.answers:
            medians.append(statistics.median(answer["seconds"] for answer in answers))
        return statistics.median(medians)

    def tau(self) -> float:
        """Tokens per round; every round emits one token more than it accepted."""
        decoded = 0
        rounds = 0
        for answers in self.answers:
            count = answers[0]["tokens"] - 1
            decoded += count
            rounds += count - (answers[0]["accepted"] or 0)
        return decoded / rounds

    def texts(self) -> list[Any]:
        """The first answer to each prompt."""
        return [answers[0]["text"] for answers in self.answers]


def summarise(row: Row, plain: Row, generate: Row | None) -> dict[str, Any]:
    """A row's numbers.

    Args:
        row: To be summarised.
        plain: Plain decoding of the same setup.
        generate: The fastest plain `generate`, None where there is none.
    """
    summary: dict[str, Any] = asdict(row.setup) | {"drafts": row.drafts, "failure": row.failure}
    summary["versions"] = row.versions
    if not row.is_measured:
        return summary
    speeds = row.speeds()
    summary["prompts"] = len(speeds)
    summary["tokens_s"] = statistics.median(speeds)
    summary["interval"] = median_interval(speeds)
    summary["seconds"] = row.seconds()
    summary["tau"] = row.tau()
    if plain.is_measured:
        same = [mine == its for mine, its in zip(row.texts(), plain.texts(), strict=True)]
        summary["same_text"] = statistics.mean(same)
        summary["over_plain"] = ratio(row, plain)
        summary["over_plain_interval"] = ratio_interval(speeds, plain.speeds())
    if generate is not None:
        summary["over_generate"] = ratio(row, generate)
        summary["over_generate_interval"] = ratio_interval(speeds, generate.speeds())
    return summary


def ratio(row: Row, other: Row) -> float:
    """By what a row's median speed is higher than another's."""
    return statistics.median(row.speeds()) / statistics.median(other.speeds())


def fastest_generate(rows: Iterable[Row]) -> Row | None:
    """Plain eager `generate` in its faster dtype."""
    found = []
    for row in rows:
        is_generate = row.setup.engine == "eagle_hf" and row.setup.mode == "eager"
        if is_generate and row.drafts == "plain" and row.is_measured:
            found.append(row)
    return max(found, key=median_speed, default=None)


def median_speed(row: Row) -> float:
    """A row's tokens per second."""
    return statistics.median(row.speeds())


def table(summaries: list[dict[str, Any]]) -> str:
    """All rows as Markdown."""
    lines = [
        "| engine | dtype | | drafts | tokens/s | whole call | over its own plain "
        "| over `generate` | tau | same text |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for summary in summaries:
        setup = f"| {NAMES[summary['engine']]} | {summary['dtype']} | {summary['mode']} "
        lines.append(f"{setup}| {summary['drafts']} | {cells(summary)} |")
    return "\n".join(lines) + "\n"


def cells(summary: dict[str, Any]) -> str:
    """The numbers of one row."""
    if summary["failure"] is not None:
        return f"failed: {summary['failure'].replace('|', '/')} | | | | |"
    low, high = summary["interval"]
    parts = [f"{summary['tokens_s']:.1f} ({low:.1f}-{high:.1f})", f"{summary['seconds']:.2f} s"]
    is_plain = summary["drafts"] == "plain"
    parts.append("" if is_plain else ratio_cell(summary, "over_plain"))
    parts.append(ratio_cell(summary, "over_generate"))
    parts.append("" if is_plain else f"{summary['tau']:.2f}")
    is_compared = "same_text" in summary and not is_plain
    parts.append(f"{summary['same_text']:.0%}" if is_compared else "")
    return " | ".join(parts)


def ratio_cell(summary: dict[str, Any], name: str) -> str:
    """A ratio with its interval; empty where there was nothing to compare with."""
    if name not in summary:
        return ""
    low, high = summary[f"{name}_interval"]
    return f"{summary[name]:.2f}x ({low:.2f}-{high:.2f})"
