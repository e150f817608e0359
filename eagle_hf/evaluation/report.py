"""What was measured, as a Markdown table, metrics.json and one plot."""

import json
import math
from dataclasses import asdict, fields
from pathlib import Path

from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.offline import Summary


def markdown_table(summaries: dict[str, Summary]) -> str:
    """One row per category; tau is tokens per round with the bonus, in brackets its 95 % interval; speeds are tokens per second."""
    lines = [
        "| category | prompts | tau | alpha by depth | plain tok/s | with head tok/s | speed-up | identical |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, s in summaries.items():
        alpha = " ".join(f"{value:.2f}" for value in s.alpha)
        identical = f"{s.identical:.0%}" + (f" (+{s.ties} ties)" if s.ties else "")
        lines.append(
            f"| {name} | {s.prompts} | {s.tau:.2f} ({s.tau_interval[0]:.2f}-{s.tau_interval[1]:.2f}) | {alpha} | {s.plain_tokens_per_second:.1f} | "
            f"{s.fast_tokens_per_second:.1f} | {s.speedup:.2f}x | {identical} |"
        )
    return "\n".join(lines)


def screen_table(summaries: dict[str, Summary]) -> str:
    """`markdown_table` for people and 80 columns."""
    lines = [
        f"{'':<12}{'prompts':>8}{'tau (95 %)':>20}{'generate':>11}{'with head':>11}{'speed':>8}"
    ]
    for name, summary in summaries.items():
        low, high = summary.tau_interval
        tau = f"{summary.tau:.2f} ({low:.2f}-{high:.2f})"
        lines.append(
            f"{name:<12.12}{summary.prompts:>8}{tau:>20}{summary.plain_tokens_per_second:>11.1f}"
            f"{summary.fast_tokens_per_second:>11.1f}{summary.speedup:>7.2f}x"
        )
    return "\n".join(
        [*lines, "(generate and with head: tokens a second; tau: tokens a round of the target)"]
    )


def plain_results(summaries: dict[str, Summary]) -> dict[str, dict]:
    """The summaries as JSON takes them: None where no round was needed, because JSON knows no nan."""
    results = {name: asdict(summary) for name, summary in summaries.items()}
    for result in results.values():
        if math.isnan(result["tau"]):
            result |= {"tau": None, "tau_interval": None}
    return results


def write_report(folder, summaries: dict[str, Summary], facts: dict) -> None:
    """`report.md`, `metrics.json` and `acceptance.png` in a folder; `facts` say what was measured, where and how."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"facts": facts, "results": plain_results(summaries)}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    described = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    (folder / "report.md").write_text(
        f"# Measured\n\n{described}\n\n{markdown_table(summaries)}\n\n![acceptance](acceptance.png)\n"
    )
    plot(folder / "acceptance.png", summaries)


def write_acceptance(path, tree, prompts: list[dict], runs: list[DecodingStats]) -> None:
    """What `acceptance` measured, a row per prompt; the file appears whole or not at all."""
    rows = [
        {"id": prompt["id"], "category": prompt["category"]} | asdict(run)
        for prompt, run in zip(prompts, runs)
    ]
    scratch = Path(f"{path}.tmp")
    scratch.write_text(json.dumps({"tree": str(tree), "rows": rows}))
    scratch.rename(path)


def read_acceptance(path, like=None) -> list[DecodingStats]:
    """The runs that `write_acceptance` kept, in the prompts' order; a ValueError unless prompts and tree are those of the file `like`."""
    names = {field.name for field in fields(DecodingStats)}
    read = json.loads(Path(path).read_text())
    rows, other = read["rows"], json.loads(Path(like or path).read_text())
    if [row["id"] for row in rows] != [row["id"] for row in other["rows"]] or read["tree"] != other[
        "tree"
    ]:
        raise ValueError(
            f"{path} and {like} were measured on different prompts or trees ({read['tree']}, {other['tree']}); measure them alike"
        )
    return [
        DecodingStats(**{name: value for name, value in row.items() if name in names})
        for row in rows
    ]


def plot(path, summaries: dict[str, Summary]) -> None:
    """Acceptance by depth, and tokens per second with and without the head, by category."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name, summary in summaries.items():
        left.plot(
            range(1, len(summary.alpha) + 1),
            summary.alpha,
            marker="o",
            label=f"{name} (tau {summary.tau:.2f})",
        )
    left.set(xlabel="depth", ylabel="accepted, given those above", ylim=(0, 1))
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)
    places = range(len(summaries))
    right.bar(
        [p - 0.2 for p in places],
        [s.plain_tokens_per_second for s in summaries.values()],
        0.4,
        label="generate",
    )
    right.bar(
        [p + 0.2 for p in places],
        [s.fast_tokens_per_second for s in summaries.values()],
        0.4,
        label="with the head",
    )
    right.set(xticks=list(places), xticklabels=list(summaries), ylabel="tokens per second")
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
