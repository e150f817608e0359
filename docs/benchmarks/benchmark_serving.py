"""Runs against servers, as serving.json of `eagle-hf bench-serving` has them, as Markdown."""

from benchmark_markdown import Content, machine_list, markdown_table, wrapped

LATENCIES = {
    "ttft_ms": "first token",
    "tpot_ms": "time per output token",
    "itl_ms": "between tokens",
    "e2e_ms": "whole answer",
}


def describe_serving(content: Content) -> str:
    """For each category: every run's latencies, throughput and acceptance; then what they mean."""
    parts = [machine_list(content["machine"] | content.get("versions", {}))]
    for category in dict.fromkeys(run["category"] for run in content["runs"]):
        runs = [run for run in content["runs"] if run["category"] == category]
        columns = ["run", "engine", "load", "answered"]
        columns += [f"{name}, ms" for name in LATENCIES.values()]
        columns += ["tokens/s", "goodput", "tau", "alpha by depth"]
        parts.append(f"## {category[0].upper()}{category[1:]}")
        parts.append(markdown_table(columns, [_serving_row(run) for run in runs]))
    lines = [
        "- Milliseconds are medians, with the 99th percentile in brackets. "
        "An empty cell was not measured."
    ]
    for measure, text in content["definitions"].items():
        lines.append(f"- **{measure}**: {text}")
    legend = [wrapped(line, indent="  ") for line in lines]
    return "\n\n".join([*parts, "## How to read it", "\n".join(legend)])


def _serving_row(run: Content) -> list[str]:
    """One run's cells."""
    label = run["label"]
    if run.get("source"):
        label += f" (by {run['source']})"
    cells = [label, run["engine"] or "", _load(run["arrival"]), _answered(run)]
    cells += [_latency(run.get(name)) for name in LATENCIES]
    cells.append(_number(run["output_tokens_s"], "{:.1f}"))
    goodput = run.get("goodput") or {}
    acceptance = run.get("acceptance") or {}
    cells.append(_number(goodput.get("requests_s"), "{:.2f} requests/s"))
    cells.append(_number(acceptance.get("tau"), "{:.2f}"))
    cells.append(" ".join(f"{value:.2f}" for value in acceptance.get("alpha") or ()))
    return cells


def _load(arrival: Content | None) -> str:
    """How requests arrived; empty where another tool does not say."""
    if arrival is None:
        return ""
    if arrival["kind"] == "closed":
        return f"{arrival['concurrency']} at a time"
    return f"{arrival['rate']:g} a second"


def _answered(run: Content) -> str:
    """Finished requests, and what happened to others."""
    counts = run["requests"]
    notes = [f"{number} {reason}" for reason, number in counts["failed"].items()]
    if counts.get("without_token_counts"):
        notes.append(f"{counts['without_token_counts']} without token counts")
    if run.get("interrupted"):
        notes.append("run interrupted")
    text = f"{counts['finished']} of {counts['sent']}"
    return f"{text} ({', '.join(notes)})" if notes else text


def _latency(measured: Content | None) -> str:
    """Median and 99th percentile."""
    if not measured or measured["median"] is None:
        return ""
    return f"{measured['median']:.1f}" + _number(measured.get("p99"), " ({:.1f})")


def _number(value: float | None, form: str) -> str:
    """A number in a form; empty where it was not measured."""
    return "" if value is None else form.format(value)
