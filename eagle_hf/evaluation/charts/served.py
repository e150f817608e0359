"""What was measured through a server, parsed: runs of `eagle-hf bench-serving`."""

from dataclasses import dataclass, field
from typing import Any

from eagle_hf.evaluation.charts.chart import Interval
from eagle_hf.evaluation.charts.measured import ALL

SCHEMA = 1
CLOSED = "closed"


@dataclass(frozen=True)
class ServedRun:
    """One load on one server.

    Attributes:
        label: what was served, such as "with head".
        engine, model: of the server; tool: that measured it, "" for this package.
        is_closed: so many clients, each waiting for its answer; otherwise requests arrive at
            random.
        load: how many clients, or requests a second.
        category: of the prompts, "all" for all.
        milliseconds: "ttft_ms", "tpot_ms", "itl_ms" and "e2e_ms", each {"median": x, "p99": x},
            some with the median's "interval".
        output_tokens_s: tokens a second of all requests together.
        goodput: requests a second within limits.
        tau, alpha: of the server's own counters.
        finished: requests. failed: the others, by reason.
    """

    label: str
    engine: str
    model: str
    tool: str
    is_closed: bool
    load: float
    category: str
    milliseconds: dict[str, dict[str, Any]]
    output_tokens_s: float | None
    goodput: float | None
    tau: float | None
    alpha: tuple[float, ...]
    finished: int | None
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What tells the lines of a chart apart."""
        return (self.label, self.engine, self.model, self.tool)

    def median(self, measure: str) -> float | None:
        """The median of a measure in milliseconds."""
        return self.milliseconds[measure].get("median")

    def interval(self, measure: str) -> Interval | None:
        """The 95 % interval of the median; None where there is none."""
        pair = self.milliseconds[measure].get("interval")
        return None if pair is None else (float(pair[0]), float(pair[1]))

    def p99(self, measure: str) -> float | None:
        """Its 99th percentile."""
        return self.milliseconds[measure].get("p99")


def parse_serving(content: dict[str, Any]) -> list[ServedRun]:
    """The runs of serving.json."""
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']!r}, known is {SCHEMA}")
    return [_parse_run(run) for run in content["runs"]]


def _parse_run(run: dict[str, Any]) -> ServedRun:
    """One run; what another tool does not say is None."""
    arrival = run["arrival"]
    is_closed = arrival["kind"] == CLOSED
    acceptance = run.get("acceptance") or {}
    goodput = run.get("goodput") or {}
    requests = run.get("requests") or {}
    milliseconds = {}
    for measure in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        milliseconds[measure] = run.get(measure) or {}
    return ServedRun(
        label=run["label"],
        engine=run.get("engine") or "",
        model=run.get("model") or "",
        tool=run.get("source") or "",
        is_closed=is_closed,
        load=float(arrival["concurrency"] if is_closed else arrival["rate"]),
        category=run.get("category") or ALL,
        milliseconds=milliseconds,
        output_tokens_s=run.get("output_tokens_s"),
        goodput=goodput.get("requests_s"),
        tau=acceptance.get("tau"),
        alpha=tuple(acceptance.get("alpha") or ()),
        finished=requests.get("finished"),
        failed=requests.get("failed") or {},
    )
