"""What was measured, as tables, as a folder with a plot, and as tau.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from eagle_hf.data.rows import Prompt
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.metrics import MeasuredSetting, write_metrics
from eagle_hf.evaluation.offline import Summary
from eagle_hf.evaluation.plotting import open_pyplot

COLUMNS = (
    "category",
    "prompts",
    "tau",
    "alpha by depth",
    "plain tok/s",
    "with head tok/s",
    "speed-up",
    "identical",
)
BAR_WIDTH = 0.4


def markdown_table(summaries: dict[str, Summary]) -> str:
    """Show summaries as a Markdown table.

    Args:
        summaries: as `by_category` returns them.

    Returns:
        One line per category. Tau is tokens per round with the bonus, in brackets its 95 %
        interval. Speeds are tokens per second.
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name, summary in summaries.items():
        low, high = summary.tau_interval
        identical = f"{summary.identical:.0%}"
        if summary.ties:
            identical += f" (+{summary.ties} ties)"
        cells = [
            name,
            str(summary.prompts),
            f"{summary.tau:.2f} ({low:.2f}-{high:.2f})",
            " ".join(f"{value:.2f}" for value in summary.alpha),
            f"{summary.plain_tokens_per_second:.1f}",
            f"{summary.fast_tokens_per_second:.1f}",
            f"{summary.speedup:.2f}x",
            identical,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def screen_table(summaries: dict[str, Summary]) -> str:
    """Show summaries in 80 columns.

    Args:
        summaries: as `by_category` returns them.

    Returns:
        A title, one line per category, and a legend.
    """
    title = f"{'':<12}{'prompts':>8}{'tau (95 %)':>20}{'generate':>11}{'with head':>11}{'speed':>8}"
    lines = [title]
    for name, summary in summaries.items():
        low, high = summary.tau_interval
        tau = f"{summary.tau:.2f} ({low:.2f}-{high:.2f})"
        lines.append(
            f"{name:<12.12}{summary.prompts:>8}{tau:>20}{summary.plain_tokens_per_second:>11.1f}"
            f"{summary.fast_tokens_per_second:>11.1f}{summary.speedup:>7.2f}x"
        )
    lines.append("(generate and with head: tokens a second; tau: tokens a round of the target)")
    return "\n".join(lines)


def write_report(
    folder: str | Path,
    summaries: dict[str, Summary],
    setting: MeasuredSetting,
    *,
    head_fingerprint: str,
    target: str,
    head: str,
) -> None:
    """Write `report.md`, `metrics.json` and `acceptance.png` of one setting.

    Args:
        folder: where; made if it is new.
        summaries: as `by_category` returns them.
        setting: the same, as `measured_setting` describes it.
        head_fingerprint: as `weights_fingerprint` returns it.
        target: the name of the target, for the report.
        head: the name of the head, for the report.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder, {"head_fingerprint": head_fingerprint, "settings": [setting]})
    facts = {
        "target": target,
        "head": head,
        "tree": setting["tree"],
        "temperature": setting["temperature"],
        "max_new_tokens": setting["max_new_tokens"],
        **setting["machine"],
    }
    described = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    table = markdown_table(summaries)
    text = f"# Measured\n\n{described}\n\n{table}\n\n![acceptance](acceptance.png)\n"
    (folder / "report.md").write_text(text)
    draw_acceptance(folder / "acceptance.png", summaries)


def write_acceptance(
    path: str | Path, tree: object, prompts: list[Prompt], runs: list[DecodingStats]
) -> None:
    """Keep what `collect_stats` measured, one entry per prompt.

    Args:
        path: the JSON file, which appears whole or not at all.
        tree: how drafts were chosen; its text is kept.
        prompts: what was answered, with `id` and `category`.
        runs: one per prompt.
    """
    entries = []
    for prompt, run in zip(prompts, runs, strict=True):
        named = {"id": prompt["id"], "category": prompt["category"]}
        entries.append(named | asdict(run))
    scratch = Path(f"{path}.tmp")
    scratch.write_text(json.dumps({"tree": str(tree), "rows": entries}))
    scratch.rename(path)


def read_acceptance(path: str | Path, like: str | Path | None = None) -> list[DecodingStats]:
    """Read what `write_acceptance` kept.

    Args:
        path: the JSON file.
        like: another such file that must have the same prompts and the same tree.

    Returns:
        The runs, in the order of the prompts.

    Raises:
        ValueError: where both files were measured on different prompts or trees.
    """
    content = json.loads(Path(path).read_text())
    other = json.loads(Path(like or path).read_text())
    same_prompts = _prompt_ids(content) == _prompt_ids(other)
    if not same_prompts or content["tree"] != other["tree"]:
        raise ValueError(
            f"{path} and {like} were measured on different prompts or trees "
            f"({content['tree']}, {other['tree']}); measure them alike"
        )
    names = [field.name for field in fields(DecodingStats)]
    runs = []
    for entry in content["rows"]:
        # the entry of a prompt also holds its id and category
        known = {name: entry[name] for name in names if name in entry}
        runs.append(DecodingStats(**known))
    return runs


def _prompt_ids(content: dict[str, Any]) -> list[str]:
    """The ids of a tau.json, in order."""
    return [entry["id"] for entry in content["rows"]]


def draw_acceptance(path: str | Path, summaries: dict[str, Summary]) -> None:
    """Draw acceptance by depth, and the speed with and without the head, by category.

    Args:
        path: the picture to write.
        summaries: as `by_category` returns them.
    """
    pyplot = open_pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")

    # 1) alpha by depth
    for name, summary in summaries.items():
        depths = range(1, len(summary.alpha) + 1)
        left.plot(depths, summary.alpha, marker="o", label=f"{name} (tau {summary.tau:.2f})")
    left.set(xlabel="depth", ylabel="accepted, given those above", ylim=(0, 1))
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)

    # 2) tokens per second, two bars a category
    plain = [summary.plain_tokens_per_second for summary in summaries.values()]
    fast = [summary.fast_tokens_per_second for summary in summaries.values()]
    _draw_bars(right, plain, -BAR_WIDTH / 2, "generate")
    _draw_bars(right, fast, BAR_WIDTH / 2, "with the head")
    ticks = list(range(len(summaries)))
    right.set(xticks=ticks, xticklabels=list(summaries), ylabel="tokens per second")
    right.legend(frameon=False)

    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_bars(axes: Any, heights: Sequence[float], shift: float, label: str) -> None:
    """One bar per height, beside the ticks 0, 1, ..."""
    positions = [tick + shift for tick in range(len(heights))]
    axes.bar(positions, heights, BAR_WIDTH, label=label)
