"""Files of every kind that a report reads, with numbers made up for tests."""

import json
from pathlib import Path

from eagle_hf.evaluation.metrics import METRICS

ROOT = Path(__file__).parents[1]
PLAN = ROOT / "tests" / "measuring" / "smollm2" / "plan.json"
CATEGORIES = ("chat", "code", "math", "multilingual")
METHODS = {
    "plain": 1.0,
    "lookup": 1.12,
    "assistant:/models/a-very-long-folder/SmolLM2-135M-Instruct": 0.84,
    "head@dynamic:4:4:12": 1.57,
    "head@chain:4:1:4": 1.33,
    "itself": 0.91,
}
PHASES = {"prefill": 0.2, "target": 0.031, "head": 0.009, "draft": 0.002, "accept": 0.001}
MACHINE = {"device": "a test's imagination", "threads": 2, "torch": "2.13.0"}


def slots() -> list[dict]:
    """A tree of 12 slots, counted over 1,000 rounds."""
    parents = [-1, -1, -1, 0, 0, 1, 3, 3, 4, 6, 6, 9]
    depths = [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5]
    visited = [1000, 1000, 1000, 610, 610, 140, 400, 400, 90, 270, 270, 150]
    accepted = [610, 140, 52, 400, 90, 70, 270, 41, 30, 150, 33, 66]
    tree = []
    for values in zip(parents, depths, visited, accepted, strict=True):
        tree.append(dict(zip(("parent", "depth", "visited", "accepted"), values, strict=True)))
    return tree


def method_row(method: str, category: str, temperature: float, speed: float) -> dict:
    """A row of `eagle-hf evaluate --methods`."""
    is_plain = method == "plain"
    tokens_s = 40 * speed
    row = {
        "method": method,
        "temperature": temperature,
        "batch": 1,
        "category": category,
        "prompts": 20,
        "tau": None if is_plain else 1 + speed,
        "alpha": [] if is_plain else [0.72 * speed / 1.6, 0.7 * speed / 1.6, 0.6 * speed / 1.6],
        "tokens_s": tokens_s,
        "tokens_s_interval": [0.9 * tokens_s, 1.08 * tokens_s],
        "speedup": speed,
        "speedup_interval": [0.9 * speed, 1.08 * speed],
        "identical": 1.0,
        "ties": 0,
    }
    if not is_plain:
        row["tau_interval"] = [0.9 + speed, 1.1 + speed]
        row["seconds"] = {name: value * speed for name, value in PHASES.items()}
        row["predicted_speed"] = 1.2 * speed
        row["over_loop"] = 1.1 * speed
        row["over_loop_interval"] = [speed, 1.2 * speed]
    if method.startswith("head@dynamic"):
        row["tree"] = slots()
    return row


def methods(temperatures: tuple[float, ...] = (0.0, 1.0)) -> dict:
    """metrics.json, schema 2: methods by category, and one that failed."""
    rows = []
    for temperature in temperatures:
        for place, category in enumerate((*CATEGORIES, "all")):
            for method, speed in METHODS.items():
                is_plain = method == "plain"
                factor = 1.0 if is_plain else 0.85 + 0.1 * place - 0.2 * temperature
                rows.append(method_row(method, category, temperature, speed * factor))
    rows.append({"method": "early-exit:9", "failed": "the target has 8 layers; early exit needs 9"})
    return {"schema": 2, "asked": {"target": "smollm2", "machine": MACHINE}, "rows": rows}


def served_run(label: str, category: str, arrival: dict, load: float, speed: float) -> dict:
    """A run of `eagle-hf bench-serving`."""
    tpot = (18 + 6 * load) / speed
    drafts = label == "with head"
    return {
        "label": label,
        "engine": "vllm",
        "model": "smollm2",
        "arrival": arrival,
        "category": category,
        "requests": {"sent": 32, "finished": 31, "failed": {"disconnected": 1 if drafts else 0}},
        "ttft_ms": {"median": 60 + 20 * load + 15 * drafts, "p99": 200 + 80 * load},
        "tpot_ms": {"median": tpot, "p99": 1.6 * tpot, "interval": [0.95 * tpot, 1.1 * tpot]},
        "itl_ms": {"median": tpot, "p99": 2 * tpot},
        "e2e_ms": {"median": 64 * tpot, "p99": 90 * tpot, "interval": [60 * tpot, 70 * tpot]},
        "output_tokens_s": 900 * load / tpot,
        "goodput": {"limits": {"tpot_ms": 50}, "requests_s": 3 / load},
        "acceptance": {"tau": 2.4, "alpha": [0.7, 0.6, 0.55]} if drafts else None,
    }


def serving() -> dict:
    """serving.json: with and without a head, closed and at random, by category."""
    runs = []
    for label, gain in (("without head", 1.0), ("with head", 1.7)):
        for load in (1, 2, 4, 8):
            arrival = {"kind": "closed", "concurrency": load}
            speed = gain if gain == 1 else gain - 0.05 * load
            runs.append(served_run(label, "all", arrival, load, speed))
        for rate in (0.5, 2.0):
            arrival = {"kind": "poisson", "rate": rate}
            runs.append(served_run(label, "all", arrival, rate, gain))
        for place, category in enumerate(CATEGORIES):
            arrival = {"kind": "closed", "concurrency": 4}
            runs.append(served_run(label, category, arrival, 4, gain + 0.1 * place * (gain > 1)))
    return {"schema": 1, "kind": "serving", "machine": MACHINE, "versions": {}, "runs": runs}


def training() -> dict:
    """trainer_state.json of a run with five evaluations."""
    history = []
    for step in range(0, 5000, 1000):
        tau = 1 + step / (step + 1500) * 2
        history.append({"step": step + 1, "loss": 3.0})
        alphas = {"eval_alpha_1": tau / 4, "eval_alpha_2": tau / 5}
        history.append({"step": step + 1, "eval_loss": 2.5, "eval_tau": tau, **alphas})
    return {"global_step": 5000, "log_history": history}


def speeds() -> dict:
    """speeds.json of `eagle-hf plan`."""
    rows = []
    for batch in (1, 4):
        for length in (256, 2048):
            for method, predicted in (("sequoia", 1.5), ("adaptive", 1.6)):
                measured = (predicted - 0.1 * batch) * 0.95
                row = {
                    "batch": batch,
                    "length": length,
                    "method": method,
                    "tau": 2.4,
                    "over_plain": measured,
                    "interval": [0.93 * measured, 1.06 * measured],
                    "predicted": predicted - 0.1 * batch + length / 20000,
                }
                rows.append(row)
    return {"machine": MACHINE, "rows": rows}


def pairs() -> dict:
    """metrics.json of `eagle-hf pair`: a head, a smaller model, and one that does not fit."""
    rows = []
    for drafter, accepted, measured in (("head mine", 0.36, 1.42), ("model small", 0.71, 0.88)):
        row = {
            "drafter": drafter,
            "size": 0.1,
            "notes": [],
            "draft_cost": 0.12,
            "accepted": accepted,
            "tau": 1 + 4 * accepted,
            "predicted": 1.1 * measured,
            "measured": measured,
            "interval": [0.94 * measured, 1.07 * measured],
            "verdict": f"a round gives {1 + 4 * accepted:.2f} tokens",
        }
        rows.append(row)
    failures = {"model other": "another vocabulary"}
    return {
        "schema": 1,
        "kind": "pairs",
        "asked": {"drafts": 4},
        "pairs": rows,
        "failures": failures,
    }


def long_methods() -> dict:
    """metrics.json of `eagle-hf evaluate` with long prompts and two batch sizes."""
    rows = []
    for batch in (1, 4):
        for length in (2048, 4096, 8192):
            speed = 1.1 + length / 20000 - batch / 20
            row = method_row("head@adaptive:6:8:32", f"long-{length}", 0.0, speed)
            drafts = {"num_draft_tokens": 100 * length // 512}
            row |= {"batch": batch, "rounds": 100, "acceptance": {"vllm": drafts}}
            rows.append(row)
    return {"schema": 2, "asked": {"target": "smollm2", "machine": MACHINE}, "rows": rows}


def roofline() -> dict:
    """roofline.json of `eagle-hf roofline`."""
    cells = []
    for length in (1000, 32000):
        for batch in (1, 8, 32, 128):
            fits = batch * length < 2_000_000
            gains = {
                "self-speculation": 0.8 + batch * length / 3e6 if fits else None,
                "EAGLE-3 tree": 2.2 - batch / 100 if fits else None,
            }
            forward = {
                "reading_weights": 5e-3,
                "multiplying_weights": 5e-3 * batch / 74,
                "reading_cache": 3e-8 * batch * length,
                "multiplying_cache": 2e-9 * batch * length,
                "layers": 4e-3,
            }
            cell = {"machine": "H100", "batch": batch, "length": length, "gains": gains}
            cell["forward"] = forward if fits else None
            cell["best_chain"] = min(batch * length // 50_000, 8) if fits else None
            cells.append(cell)
    return {
        "kind": "roofline",
        "simulated": True,
        "model": "llama-3.1-8b",
        "operations_per_byte": {"H100": 74.0},
        "cells": cells,
    }


def write(folder: Path, name: str, content: dict) -> Path:
    """Write a JSON file into a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(json.dumps(content))
    return file


def write_all(folder: Path) -> Path:
    """A folder with a file of every kind."""
    write(folder / "methods", METRICS, methods())
    write(folder / "long", METRICS, long_methods())
    write(folder / "pairs", METRICS, pairs())
    write(folder / "served", "serving.json", serving())
    write(folder / "head" / "checkpoint-5000", "trainer_state.json", training())
    write(folder / "plan", "plan.json", json.loads(PLAN.read_text()))
    write(folder / "plan", "speeds.json", speeds())
    write(folder / "roofline", "roofline.json", roofline())
    return folder
