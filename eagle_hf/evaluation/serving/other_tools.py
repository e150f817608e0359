"""Result files of other benchmarks as rows of serving.json.

tool               file                            its tpot is called       its itl
vllm bench serve   --save-result                   tpot                     by chunk, not by token
guidellm           --output kind=json              inter_token_latency      not given
aiperf             profile_export_aiperf.json      inter_token_latency      not given

What a tool does not say, or means otherwise, is None.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle_hf.data.answers.draft_counts import DraftCounts, counts_of_histogram
from eagle_hf.evaluation.serving.load import CLOSED, POISSON
from eagle_hf.evaluation.serving.measures import ALL

VLLM = "vllm bench serve"
GUIDELLM = "guidellm"
AIPERF = "aiperf"
Rows = list[dict[str, Any]]


def read_results(text: str) -> Rows:
    """Read a result file.

    Args:
        text: LABEL=FILE, or a file, which is its own label then.

    Returns:
        Rows of serving.json with `source`: the tool's name.

    Raises:
        ValueError: there is no such file, or it is of none of these tools.
    """
    label, sign, name = text.partition("=")
    path = Path(name if sign else text)
    if not path.is_file():
        raise ValueError(f"there is no result file {str(path)!r}; write LABEL=FILE")
    rows = []
    try:
        for document in _documents(path.read_text(encoding="utf-8")):
            rows += _reader(document)(document, label)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} is no result file of {VLLM}, {GUIDELLM} or {AIPERF} that can be read "
            f"({type(error).__name__}: {error})"
        ) from error
    return rows


def _documents(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a file: one, or one a line as `vllm bench serve --append-result` has."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def _reader(document: dict[str, Any]) -> Callable[[dict[str, Any], str], Rows]:
    """What reads a document."""
    if "aiperf_version" in document:
        return _aiperf
    if "benchmarks" in document:
        return _guidellm
    if "request_rate" in document and "output_throughput" in document:
        return _vllm
    raise ValueError(f"its keys are {', '.join(list(document)[:8])}")


def _vllm(document: dict[str, Any], label: str) -> Rows:
    """A result of `vllm bench serve`."""
    rate = document["request_rate"]
    concurrency = document.get("max_concurrency")
    arrival = None
    if rate != "inf":
        arrival = _arrival(None, rate)
    elif concurrency is not None:
        arrival = _arrival(concurrency, None)
    acceptance = None
    if document.get("spec_decode_num_drafts"):
        rounds = document["spec_decode_num_drafts"]
        shares = document["spec_decode_per_position_acceptance_rates"]
        counts = DraftCounts(
            rounds,
            document["spec_decode_accepted_tokens"],
            document["spec_decode_draft_tokens"],
            [round(share * rounds) for share in shares],
        )
        acceptance = counts.acceptance(VLLM)
    times = {}
    for ours, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("e2e", "e2el")):
        times[ours] = _pair(document.get(f"median_{theirs}_ms"), document.get(f"p99_{theirs}_ms"))
    # Its itl is by chunk, which is by token only where nothing is drafted.
    if acceptance is None:
        times["itl"] = _pair(document.get("median_itl_ms"), document.get("p99_itl_ms"))
    failed = document.get("failed", document["num_prompts"] - document["completed"])
    goodput = document.get("request_goodput")
    row = _row(label or document.get("label") or VLLM, VLLM, document["model_id"], arrival, times)
    row["engine"] = "vllm" if document["backend"] == "vllm" else ""
    row["requests"] = _requests(document["completed"], failed)
    row["output_tokens_s"] = document["output_throughput"]
    row["goodput"] = None if goodput is None else {"limits": {}, "requests_s": goodput}
    row["acceptance"] = acceptance
    return [row]


def _guidellm(document: dict[str, Any], label: str) -> Rows:
    """A report of guidellm, which may hold several benchmarks."""
    rows = []
    for benchmark in document["benchmarks"]:
        metrics = benchmark["metrics"]
        config = benchmark["config"]
        strategy = config["strategy"]
        times = {
            "ttft": _distribution(metrics["time_to_first_token_ms"]),
            "tpot": _distribution(metrics["inter_token_latency_ms"]),
            "e2e": _distribution(metrics["request_latency"], 1000),
        }
        totals = metrics["request_totals"]
        failed = totals["errored"] + totals["incomplete"]
        tokens = metrics["output_token_count"]["successful"]["total_sum"]
        model = str(config["backend"].get("model") or "")
        row = _row(label or GUIDELLM, GUIDELLM, model, _strategy_arrival(strategy), times)
        row["requests"] = _requests(totals["successful"], failed)
        row["output_tokens_s"] = tokens / benchmark["duration"] if benchmark["duration"] else None
        histograms = []
        for request in benchmark["requests"]["successful"]:
            drafts = (request.get("response_metrics") or {}).get("speculative_decoding")
            if drafts:
                histograms.append((drafts["acceptance_histogram"], drafts["num_draft_tokens"]))
        row["acceptance"] = _added_acceptance(histograms, GUIDELLM)
        rows.append(row)
    return rows


def _strategy_arrival(strategy: Mapping[str, Any]) -> dict[str, Any] | None:
    """How guidellm sent requests; None where it is neither a closed loop nor Poisson."""
    kind = strategy["type_"]
    if kind == "synchronous":
        return _arrival(1, None)
    if kind == "concurrent":
        return _arrival(strategy["streams"], None)
    return _arrival(None, strategy["rate"]) if kind == "poisson" else None


def _aiperf(document: dict[str, Any], label: str) -> Rows:
    """A profile of aiperf."""
    config = document["input_config"]
    phases = [phase for phase in config["phases"] if phase.get("kind") == "profiling"]
    phase = phases[-1]
    arrival = None
    if phase["type"] == "concurrency":
        arrival = _arrival(phase["concurrency"], None)
    elif phase["type"] == "poisson":
        arrival = _arrival(None, phase["rate"])
    times = {
        "ttft": _percentiles(document.get("time_to_first_token")),
        "tpot": _percentiles(document.get("inter_token_latency")),
        "e2e": _percentiles(document.get("request_latency")),
    }
    model = config["models"]["items"][0]["name"]
    row = _row(label or AIPERF, AIPERF, model, arrival, times)
    failed = _average(document.get("error_request_count")) or 0
    row["requests"] = _requests(int(document["request_count"]["avg"]), int(failed))
    row["output_tokens_s"] = _average(document.get("output_token_throughput"))
    goodput = _average(document.get("goodput"))
    row["goodput"] = None if goodput is None else {"limits": {}, "requests_s": goodput}
    pooled = document.get("pooled_spec_decode_acceptance_histogram")
    if pooled:
        histogram = [pooled.get(str(depth), 0) for depth in range(max(map(int, pooled)) + 1)]
        drafted = _average(document.get("total_draft_tokens"))
        row["acceptance"] = _added_acceptance([(histogram, drafted)], AIPERF)
    return [row]


def _row(
    label: str,
    source: str,
    model: str,
    arrival: dict[str, Any] | None,
    times: Mapping[str, dict[str, float] | None],
) -> dict[str, Any]:
    """A row with everything that a tool may leave out as None."""
    return {
        "label": label,
        "engine": "",
        "model": model,
        "arrival": arrival,
        "category": ALL,
        "requests": None,
        "ttft_ms": times.get("ttft"),
        "tpot_ms": times.get("tpot"),
        "itl_ms": times.get("itl"),
        "e2e_ms": times.get("e2e"),
        "output_tokens_s": None,
        "goodput": None,
        "acceptance": None,
        "source": source,
    }


def _arrival(concurrency: float | None, rate: float | None) -> dict[str, Any]:
    """An arrival as serving.json holds it."""
    if concurrency is not None:
        return {"kind": CLOSED, "concurrency": int(concurrency)}
    return {"kind": POISSON, "rate": rate}


def _requests(finished: int, failed: int) -> dict[str, Any]:
    """The counts of a tool that does not say why requests failed."""
    reasons = {"not finished": failed} if failed else {}
    return {"sent": finished + failed, "finished": finished, "failed": reasons}


def _pair(median: float | None, p99: float | None, factor: float = 1) -> dict[str, Any] | None:
    """Median and p99 in milliseconds; None without a median."""
    if median is None or math.isnan(median):
        return None
    return {"median": median * factor, "p99": None if p99 is None else p99 * factor}


def _distribution(metric: Mapping[str, Any], factor: float = 1) -> dict[str, Any] | None:
    """A metric of guidellm, over whole answers."""
    successful = metric["successful"]
    if not successful["count"]:
        return None
    return _pair(successful["median"], successful["percentiles"]["p99"], factor)


def _percentiles(metric: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A metric of aiperf."""
    return None if metric is None else _pair(metric.get("p50"), metric.get("p99"))


def _average(metric: Mapping[str, Any] | None) -> float | None:
    """A number of aiperf."""
    return None if metric is None else metric["avg"]


def _added_acceptance(
    histograms: Sequence[tuple[Sequence[int], float | None]], source: str
) -> dict[str, Any] | None:
    """The acceptance of histograms of rounds by accepted drafts, each with its drafts."""
    total = DraftCounts(0, 0, 0)
    for histogram, drafted in histograms:
        total += counts_of_histogram(histogram, drafted)
    return total.acceptance(source)
