"""Charts of what was measured through servers, against concurrency or rate."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eagle_hf.evaluation.charts.building.naming import drawn_series, names_apart
from eagle_hf.evaluation.charts.chart import (
    NOTHING,
    Absent,
    Chart,
    Interval,
    Point,
    Series,
    Table,
    show,
    show_interval,
)
from eagle_hf.evaluation.charts.forms import Lines, Rows
from eagle_hf.evaluation.charts.measured import ALL
from eagle_hf.evaluation.charts.served import ServedRun
from eagle_hf.evaluation.charts.sources import Source, Sources

BENCH = "serving.json of `eagle-hf bench-serving`"
CLIENTS = "requests at a time"
SECOND = 1000.0  # milliseconds
RATE = "requests a second, arriving at random"
Served = tuple[Source, ServedRun]
PLAIN_WORDS = re.compile(r"\b(without|plain|baseline)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Measure:
    """What is drawn of a run.

    Attributes:
        name: the median of serving.json, or "" for the output of all requests.
        parts: by which the milliseconds are divided.
    """

    name: str = ""
    parts: float = 1.0

    def value(self, run: ServedRun) -> float | None:
        """The number; None where it was not measured."""
        if not self.name:
            return run.output_tokens_s
        milliseconds = run.median(self.name)
        return None if milliseconds is None else milliseconds / self.parts

    def interval(self, run: ServedRun) -> Interval | None:
        """Its interval; None where there is none."""
        pair = run.interval(self.name) if self.name else None
        return None if pair is None else (pair[0] / self.parts, pair[1] / self.parts)


def served_runs(sources: Sources) -> list[Served]:
    """All runs, each with its file."""
    return [(source, run) for source in sources.of("serving") for run in source.data]


def key_of(served: Served) -> tuple[str, ...]:
    """What tells the lines of a chart apart."""
    source, run = served
    return (*run.names, source.label)


def is_plain(run: ServedRun) -> bool:
    """Whether a label says that nothing was drafted."""
    return PLAIN_WORDS.search(run.label) is not None


def time_per_token(sources: Sources) -> list[Chart | Absent]:
    """Median time per output token against concurrency, and against rate."""
    return _against_load(
        sources,
        ("time-per-token", "Time per token"),
        "milliseconds a token, median",
        Measure("tpot_ms"),
        "Median time per output token of a request after its first one: lower is better.",
    )


def time_to_first_token(sources: Sources) -> list[Chart | Absent]:
    """Median time to the first token against concurrency, and against rate."""
    return _against_load(
        sources,
        ("time-to-first-token", "Time to the first token"),
        "milliseconds, median",
        Measure("ttft_ms"),
        "Median time from sending a request to its first token: lower is better.",
    )


def generation_time(sources: Sources) -> list[Chart | Absent]:
    """Median time of whole answers against concurrency, and against rate."""
    return _against_load(
        sources,
        ("generation-time", "Generation time"),
        "seconds an answer, median",
        Measure("e2e_ms", SECOND),
        "Median time from sending a request to the last token of its answer: lower is better.",
    )


def throughput(sources: Sources) -> list[Chart | Absent]:
    """Output tokens a second of all requests against concurrency, and against rate."""
    return _against_load(
        sources,
        ("throughput", "Throughput"),
        "tokens a second, all requests",
        Measure(),
        "Output tokens a second of all requests together: higher is better.",
    )


def _against_load(
    sources: Sources,
    names: tuple[str, str],
    y_label: str,
    measure: Measure,
    caption: str,
) -> list[Chart | Absent]:
    """A measure against concurrency; one more chart against the rate where runs have one."""
    name, title = names
    usable = []
    for entry in served_runs(sources):
        if entry[1].category == ALL and measure.value(entry[1]) is not None:
            usable.append(entry)
    charts: list[Chart | Absent] = []
    closed = [entry for entry in usable if entry[1].is_closed]
    if closed:
        whole = f"{title} against concurrency"
        charts.append(_line_chart(name, whole, CLIENTS, y_label, measure, caption, closed))
    else:
        charts.append(Absent(f"{title} against concurrency", BENCH))
    arriving = [entry for entry in usable if not entry[1].is_closed]
    if arriving:
        whole = f"{title} against rate"
        charts.append(_line_chart(f"{name}-rate", whole, RATE, y_label, measure, caption, arriving))
    return charts


def _line_chart(
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    measure: Measure,
    caption: str,
    runs: Sequence[Served],
) -> Chart:
    """One line a label."""
    names = names_apart(list(dict.fromkeys(key_of(entry) for entry in runs)))
    series = []
    for key, line in names.items():
        own = sorted(
            (run for source, run in runs if key_of((source, run)) == key),
            key=lambda run: run.load,
        )
        points = []
        for run in own:
            value = measure.value(run)
            assert value is not None
            points.append(Point(run.load, value, _tip(line, run), measure.interval(run)))
        series.append(Series(line, tuple(points), is_plain(own[0])))
    kept, said = drawn_series(series)
    form = Lines(x_label, y_label, kept, is_log=True)
    caption = f"{caption}{_failures_said(runs)}{said}"
    is_simulated = any(source.is_simulated for source, _ in runs)
    return Chart(name, title, caption, form, _load_table(x_label, names, runs), is_simulated)


def _failures_said(runs: Sequence[Served]) -> str:
    """A sentence where requests failed."""
    failed = sum(sum(run.failed.values()) for _, run in runs)
    if not failed:
        return ""
    noun = "request" if failed == 1 else "requests"
    return f" {failed} {noun} failed and are not in these numbers; the table counts them."


def _tip(line: str, run: ServedRun) -> str:
    """What hovering over a run says."""
    load = f"{run.load:g} at a time" if run.is_closed else f"{run.load:g} requests a second"
    lines = [f"{line}, {load}"]
    measures = {"tpot_ms": "a token", "ttft_ms": "to the first token", "e2e_ms": "an answer"}
    for measure, name in measures.items():
        median = run.median(measure)
        if median is None:
            continue
        p99 = run.p99(measure)
        more = "" if p99 is None else f" (p99 {show(p99, 1)})"
        lines.append(f"{show(median, 1)} ms {name}{more}")
    if run.output_tokens_s is not None:
        lines.append(f"{show(run.output_tokens_s, 1)} tokens a second")
    if run.tau is not None:
        lines.append(f"{show(run.tau)} tokens a round")
    return "\n".join(lines)


def _load_table(
    x_label: str, names: dict, runs: Sequence[Served], by_category: bool = False
) -> Table:
    """Everything that was measured at each load, and of each category."""
    measures = (("TPOT", "tpot_ms"), ("ITL", "itl_ms"), ("TTFT", "ttft_ms"), ("E2E", "e2e_ms"))
    columns = ["category"] if by_category else []
    columns += ["served", x_label]
    for name, _ in measures:
        columns += [f"{name} ms", "p99"]
    columns += ["tokens/s", "goodput req/s", "tau", "finished", "failed"]
    lines = []
    for entry in runs:
        run = entry[1]
        line = [run.category] if by_category else []
        line += [names[key_of(entry)], f"{run.load:g}"]
        for _, measure in measures:
            line += [_with_interval(run, measure), show(run.p99(measure), 1)]
        line += [show(run.output_tokens_s, 1), show(run.goodput), show(run.tau)]
        line.append(NOTHING if run.finished is None else str(run.finished))
        failed = [f"{count} {reason}" for reason, count in run.failed.items() if count]
        line.append(", ".join(failed) or "0")
        lines.append(tuple(line))
    return Table(tuple(columns), tuple(lines), texts=1 + by_category)


def _with_interval(run: ServedRun, measure: str) -> str:
    """A median in milliseconds, with its interval where there is one."""
    median = show(run.median(measure), 1)
    interval = run.interval(measure)
    return median if interval is None else f"{median} ({show_interval(interval, 1)})"


def served_categories(sources: Sources) -> list[Chart | Absent]:
    """Output speed by category through servers, at the least load that was measured by category."""
    title = "Served speed by category"
    runs = []
    for entry in served_runs(sources):
        run = entry[1]
        if run.category != ALL and run.output_tokens_s is not None and run.is_closed:
            runs.append(entry)
    if not runs:
        return [Absent(title, f"{BENCH} with prompts of categories")]
    least = min(run.load for _, run in runs)
    drawn = [entry for entry in runs if entry[1].load == least]
    categories = list(dict.fromkeys(run.category for _, run in drawn))
    names = names_apart(list(dict.fromkeys(key_of(entry) for entry in runs)))
    series = []
    for key, name in names.items():
        own = [run for source, run in drawn if key_of((source, run)) == key]
        points = []
        for run in own:
            assert run.output_tokens_s is not None
            tip = _tip(f"{name}, {run.category}", run)
            points.append(Point(run.output_tokens_s, categories.index(run.category), tip))
        if points:
            series.append(Series(name, tuple(points), is_plain(own[0])))
    kept, said = drawn_series(series)
    form = Rows("output tokens a second", tuple(categories), kept)
    table = _load_table(CLIENTS, names, runs, by_category=True)
    caption = f"Output tokens a second of all requests, {least:g} at a time.{said}"
    is_simulated = any(source.is_simulated for source, _ in drawn)
    return [Chart("served-categories", title, caption, form, table, is_simulated)]
