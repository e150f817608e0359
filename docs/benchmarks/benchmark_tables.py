"""What a kept measurement says, as Markdown: a function for each schema that is kept.

head       metrics.json of `eagle-hf evaluate` and recipes/evaluate.py: settings of one head
methods    schema 2 of the same file, `eagle-hf evaluate --methods`: rows of methods
serving    serving.json of `eagle-hf bench-serving`: runs against servers
"""

from collections.abc import Sequence
from typing import Any

from benchmark_markdown import Content, machine_list, markdown_table, wrapped
from benchmark_serving import describe_serving

from eagle_hf.hub.cards.results import CHAIN, explain_results, results_table

METHODS_LEGEND = """\
- **tau**: tokens per round, over all rounds; **by request**: the median over requests.
- **tokens/s**: new tokens of a whole call, prompt included, per second; the median over calls.
- **over plain**: its ratio to that of plain decoding, transformers' `generate`.
- **over the loop**: to that of this package's loop without drafts; **predicted**: by costs.
- **identical**: answers equal to plain decoding's, token by token.
- Brackets hold 95 % intervals."""
SPEEDS_LEGEND = """\
- **over `generate`**: over plain `generate` in the same dtype, in the same run.
- **ms a round**: spent outside the forwards of target and head."""


def kind_of(content: Content) -> str:
    """Which schema a file has.

    Args:
        content: of metrics.json or serving.json.

    Returns:
        "head", "methods" or "serving".

    Raises:
        ValueError: it is none of them.
    """
    if content.get("kind") == "serving" and content.get("schema") == 1:
        return "serving"
    if content.get("schema") == 2 and "rows" in content:
        return "methods"
    if "schema" not in content and "settings" in content:
        return "head"
    named = {name: content.get(name) for name in ("schema", "kind")}
    raise ValueError(
        f"the file holds {', '.join(content)} ({named}); kept are metrics.json of `eagle-hf "
        "evaluate`, with --methods or without, and serving.json of `eagle-hf bench-serving`"
    )


def describe(content: Content) -> str:
    """The body of a page: machine, tables and what their words mean.

    Args:
        content: of one of the three kinds.

    Returns:
        Markdown, headings of the second level inside.
    """
    kinds = {"head": _describe_head, "methods": _describe_methods, "serving": describe_serving}
    return kinds[kind_of(content)](content)


def machine_of(content: Content) -> dict[str, Any]:
    """Where a kept measurement was made, with the versions."""
    if kind_of(content) == "head":
        return content["settings"][0]["machine"]
    return content["machine"] | content["versions"]


# a head


def _describe_head(content: Content) -> str:
    """Every tree as the head's card shows it, then the speeds of all settings."""
    parts = [machine_list(machine_of(content))]
    trees = list(dict.fromkeys(setting["tree"] for setting in content["settings"]))
    shown = [tree for tree in trees if tree != CHAIN] or trees
    for tree in shown:
        parts.append(f"## Tree {tree}")
        parts.append(results_table(content, tree))
        parts.append(wrapped(explain_results(content, tree)))
    columns = ["dtype", "tree", "sampling", "", "prompts", "`generate`", "with the head"]
    columns += ["over `generate`", "identical", "ms a round"]
    rows = []
    for setting in content["settings"]:
        for category, result in setting["results"].items():
            rows.append(_speed_row(setting, category, result))
    parts.append("## Tokens per second")
    parts.append(markdown_table(columns, rows))
    parts.append(SPEEDS_LEGEND)
    return "\n\n".join(parts)


def _speed_row(setting: Content, category: str, result: Content) -> list[str]:
    """One setting's speeds in one category."""
    return [
        setting["dtype"],
        setting["tree"],
        sampling_name(setting["temperature"]),
        category,
        str(result["prompts"]),
        f"{result['plain_tokens_per_second']:.1f}",
        f"{result['fast_tokens_per_second']:.1f}",
        f"{result['speedup']:.2f}x",
        f"{result['identical']:.0%}",
        f"{result['overhead_ms']:.1f}",
    ]


def sampling_name(temperature: float) -> str:
    """How tokens are chosen at a temperature."""
    return f"T={temperature:g}" if temperature else "greedy"


# methods side by side


def _describe_methods(content: Content) -> str:
    """For each temperature and batch size: all methods, then by category, depth and phase."""
    measured = [row for row in content["rows"] if "failed" not in row]
    parts = [machine_list(machine_of(content))]
    for setting in dict.fromkeys((row["temperature"], row["batch"]) for row in measured):
        rows = [row for row in measured if (row["temperature"], row["batch"]) == setting]
        name = _setting_name(*setting)
        parts.append(f"## {name[0].upper()}{name[1:]}")
        parts += _tables_of_methods([row for row in rows if row["category"] == "all"])
    failed = []
    for row in content["rows"]:
        if "failed" in row:
            is_of_one = row["temperature"] is not None
            where = f", {_setting_name(row['temperature'], row['batch'])}" if is_of_one else ""
            failed.append(wrapped(f"- `{row['method']}`{where}: {row['failed']}", indent="  "))
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    parts += ["## How to read it", METHODS_LEGEND]
    return "\n\n".join(parts)


def _setting_name(temperature: float, batch: int) -> str:
    """A temperature and a batch size in words."""
    return f"{sampling_name(temperature)}, batch {batch}"


def _tables_of_methods(rows: Sequence[Content]) -> list[str]:
    """The tables of one temperature and batch size."""
    columns = ["method", "prompts", "tau", "by request", "tokens/s", "over plain"]
    columns += ["over the loop", "predicted", "identical"]
    cells = []
    for row in rows:
        by_request = (row.get("acceptance") or {}).get("tau_requests") or {}
        predicted = row.get("predicted_speed")
        cells.append(
            [
                row["method"],
                str(row["prompts"]),
                _with_interval(row, "tau"),
                _number(by_request.get("median"), "{:.2f}"),
                _with_interval(row, "tokens_s", digits=1),
                _with_interval(row, "speedup", unit="x"),
                _with_interval(row, "over_loop", unit="x"),
                _number(predicted, "{:.2f}x"),
                _identical(row),
            ]
        )
    tables = [markdown_table(columns, cells)]
    tables += _by_part(rows, "by_category", "Over plain decoding, by category:")
    tables += _by_part(rows, "by_entropy", "Over plain decoding, by the entropy of the answers:")
    tables += _acceptance(rows)
    tables += _phases(rows)
    return tables


def _identical(row: Content) -> str:
    """The share of equal answers, and the requests that failed."""
    text = _number(row["identical"], "{:.0%}")
    failed = sum(row["errors"].values())
    return f"{text} ({failed} errors)" if failed else text


def _by_part(rows: Sequence[Content], parts: str, intro: str) -> list[str]:
    """Speed over plain decoding in every part; nothing where there is one alone."""
    names = list(dict.fromkeys(name for row in rows for name in row.get(parts, {})))
    if len(names) < 2:
        return []
    cells = []
    for row in rows:
        speeds = [row[parts].get(name, {}).get("speedup") for name in names]
        cells.append([row["method"], *(_number(speed, "{:.2f}x") for speed in speeds)])
    return [intro, markdown_table(["method", *names], cells)]


def _acceptance(rows: Sequence[Content]) -> list[str]:
    """Acceptance by depth of those methods that say it."""
    drafting = [row for row in rows if row["alpha"]]
    if not drafting:
        return []
    deepest = max(len(row["alpha"]) for row in drafting)
    cells = []
    for row in drafting:
        shown = [f"{value:.2f}" for value in row["alpha"]]
        cells.append([row["method"], *shown, *[""] * (deepest - len(shown))])
    columns = ["method", *map(str, range(1, deepest + 1))]
    intro = "Acceptance by depth, where the drafts above were accepted:"
    return [intro, markdown_table(columns, cells)]


def _phases(rows: Sequence[Content]) -> list[str]:
    """Milliseconds of a round by phase, of those methods that say them."""
    timed = [row for row in rows if row["seconds"]]
    if not timed:
        return []
    phases = list(dict.fromkeys(phase for row in timed for phase in row["seconds"]))
    cells = []
    for row in timed:
        line = [f"{1000 * row['seconds'].get(phase, 0.0):.1f}" for phase in phases]
        cells.append([row["method"], *line])
    intro = "Milliseconds of a round, by phase (of the prefill: of a call):"
    return [intro, markdown_table(["method", *phases], cells)]


def _with_interval(row: Content, name: str, digits: int = 2, unit: str = "") -> str:
    """A number with its 95 % interval; empty where there is none."""
    if row[name] is None:
        return ""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.{digits}f}{unit} ({low:.{digits}f}-{high:.{digits}f})"


def _number(value: float | None, form: str) -> str:
    """A number in a form; empty where it was not measured."""
    return "" if value is None else form.format(value)
