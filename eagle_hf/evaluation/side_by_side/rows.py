"""What methods did, a row each: numbers as JSON holds them, and a table."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.side_by_side.kept import GroupAnswer
from eagle_hf.evaluation.side_by_side.methods import PLAIN
from eagle_hf.measuring.intervals import median_interval, ratio_interval, tau_interval

ALL = "all"
COLUMNS = (
    "method",
    "temperature",
    "batch",
    "category",
    "prompts",
    "tau",
    "tokens/s",
    "over plain",
    "identical",
)


def summaries(
    answers: Sequence[GroupAnswer], failures: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """A row for each setting, category and method, as JSON holds it.

    Args:
        answers: of all methods.
        failures: why methods were given up.

    Returns:
        Rows with method, temperature, batch, category, and either `failure` or what was measured:
        prompts; tau over all rounds, with its 95 % interval, and its mean over calls; alpha by
        depth; rounds, trials and accepted drafts by depth; tokens_s, the median over calls of new
        tokens per second of the whole call, and speedup, the ratio of that to plain decoding's,
        each with its interval; the share of answers that equal plain decoding's, and ties.
    """
    rows = []
    for setting in dict.fromkeys(answer.setting for answer in answers):
        in_setting = [answer for answer in answers if answer.setting == setting]
        for category in [*dict.fromkeys(answer.category for answer in in_setting), ALL]:
            group = [answer for answer in in_setting if category in (answer.category, ALL)]
            plain = [answer for answer in group if answer.method == PLAIN]
            for method in dict.fromkeys(answer.method for answer in group):
                if method in (failures or {}):
                    continue
                own = [answer for answer in group if answer.method == method]
                named = {"method": method, **asdict(setting), "category": category}
                rows.append(named | summarise(own, plain))
    for method, reason in (failures or {}).items():
        rows.append({"method": method, "failure": reason})
    return rows


def summarise(own: Sequence[GroupAnswer], plain: Sequence[GroupAnswer]) -> dict[str, Any]:
    """The measured part of a row: one method's answers, and plain decoding's to the same groups."""
    total = DecodingStats(rows=0)
    taus = []
    for answer in own:
        total = total + answer.stats
        if answer.stats.rounds:
            taus.append(answer.stats.tau)
    speeds = [answer.tokens / answer.seconds for answer in own]
    plain_speeds = [answer.tokens / answer.seconds for answer in plain]
    rows = sum(len(answer.prompts) for answer in own)
    measured: dict[str, Any] = {
        "prompts": rows,
        "tau": None,
        "alpha": total.alpha,
        "rounds": total.rounds,
        "trials": total.trials,
        "accepted": total.accepted,
        "tokens_s": statistics.median(speeds),
        "tokens_s_interval": median_interval(speeds),
        "speedup": statistics.median(speeds) / statistics.median(plain_speeds),
        "speedup_interval": ratio_interval(speeds, plain_speeds),
        "identical": sum(answer.same for answer in own) / rows,
        "ties": sum(answer.ties for answer in own),
    }
    if taus:
        measured["tau"] = total.tau
        measured["tau_interval"] = tau_interval([answer.stats for answer in own])
        measured["tau_by_call"] = statistics.mean(taus)
    return measured


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `summaries` as Markdown; those of all categories, and of methods that failed."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        if "failure" in row:
            reason = row["failure"].replace("|", "/")
            lines.append(f"| {row['method']} | failed: {reason} |" + " |" * (len(COLUMNS) - 2))
            continue
        cells = [
            row["method"],
            f"{row['temperature']:g}",
            str(row["batch"]),
            row["category"],
            str(row["prompts"]),
            "" if row["tau"] is None else _with_interval(row, "tau"),
            _with_interval(row, "tokens_s", digits=1),
            _with_interval(row, "speedup"),
            f"{row['identical']:.0%}" + (f" (+{row['ties']} ties)" if row["ties"] else ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_interval(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """A number with its 95 % interval."""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
