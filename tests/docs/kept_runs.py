"""What measuring commands write, in small: for the pages of docs/benchmarks."""

import json

from eagle_hf.cli.evaluate import EvaluateArguments

MACHINE = {"device": "a CPU, 2 cores", "cpu_features": None, "dtype": "bfloat16"}


def method_row(method, tokens_s, **others):
    """A row of schema 2, of all categories."""
    part = {"speedup": tokens_s / 20}
    row = {
        "method": method,
        "temperature": 0.0,
        "batch": 1,
        "category": "all",
        "prompts": 3,
        "tau": None,
        "alpha": [],
        "tokens_s": tokens_s,
        "tokens_s_interval": [tokens_s - 1, tokens_s + 1],
        "speedup": tokens_s / 20,
        "speedup_interval": [tokens_s / 25, tokens_s / 16],
        "over_loop": None,
        "over_loop_interval": None,
        "identical": 1.0,
        "errors": {},
        "acceptance": None,
        "seconds": {},
        "by_category": {"chat": part, "code": {"speedup": None}},
    }
    return row | others


def asked(**changed):
    """What `eagle-hf evaluate --methods` writes down of its arguments."""
    arguments = EvaluateArguments(target="smollm2", methods=["lookup", "head"], **changed)
    kept = json.loads(json.dumps(vars(arguments), default=str))
    return kept | {"machine": MACHINE}


def methods(**changed):
    """metrics.json of methods side by side: plain decoding, a head, and one that does not fit."""
    head = method_row(
        "head",
        30.0,
        tau=2.0,
        tau_interval=[1.5, 2.5],
        alpha=[0.6, 0.4],
        over_loop=1.25,
        over_loop_interval=[1.0, 1.5],
        predicted_speed=1.4,
        acceptance={"tau_requests": {"median": 1.9, "low": 1.5, "high": 2.2}},
        seconds={"target": 0.05, "draft": 0.004},
        errors={"time-out": 2},
    )
    nowhere = {"temperature": None, "batch": None, "category": "all"}
    failed = {"method": "early-exit:9", **nowhere, "failed": "it has 4 layers"}
    return {
        "schema": 2,
        "kind": "methods",
        "asked": asked(**changed),
        "machine": MACHINE,
        "versions": {"eagle_hf": "0.1.0"},
        "rows": [method_row("plain", 20.0), head, failed],
    }


def serving():
    """serving.json of two runs, one of another tool that says less."""
    run = {
        "label": "with head",
        "engine": "vllm",
        "model": "m",
        "arrival": {"kind": "closed", "concurrency": 4},
        "category": "all",
        "requests": {"sent": 9, "finished": 8, "failed": {"disconnected": 1}},
        "ttft_ms": {"median": 51.23, "p99": 80.0},
        "tpot_ms": {"median": 10.0, "p99": 12.5},
        "itl_ms": None,
        "e2e_ms": {"median": 900.0, "p99": 1000.0},
        "output_tokens_s": 123.4,
        "goodput": {"limits": {"ttft_ms": 100}, "requests_s": 1.5},
        "acceptance": {"tau": 2.25, "alpha": [0.7], "drafted": 9, "accepted": 6},
    }
    other = run | {
        "label": "plain",
        "source": "guidellm",
        "arrival": None,
        "interrupted": True,
        "requests": {"sent": 8, "finished": 8, "failed": {}},
        "goodput": None,
        "acceptance": None,
    }
    return {
        "schema": 1,
        "kind": "serving",
        "machine": MACHINE,
        "versions": {"vllm": "1.0"},
        "settings": {},
        "definitions": {"goodput": "requests a second that keep every limit"},
        "runs": [run, other],
    }
