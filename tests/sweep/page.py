"""The page docs/targets.md: what every class of transformers is served, and what is refused.

PYTHONPATH=tests python -m sweep.page --write  # tries all classes and writes the page
"""

import argparse
import multiprocessing
import re
from pathlib import Path

import torch
import transformers

from sweep.models import Entry, all_entries
from sweep.trial import ASSISTANTS, Outcome, try_class

PAGE = Path(__file__).parents[2] / "docs" / "targets.md"
COLUMNS = ["head", "WindowedDraft", "SelfSpeculation"]
WHOLE = "WindowedDraft(window=None)"
SERVED = {"served", "whole cache"}
PROCESSES = 2
INTRODUCTION = """# Targets

Which models can be targets, tried on a tiny seeded model of every causal and image-text class that
transformers {version} builds from a configuration. Each is given a draft head, a
[`WindowedDraft`](other_drafters.md#a-smaller-model) and a
[`SelfSpeculation`](other_drafters.md#self-speculation), greedily and sampled under a seed, alone
and in a left-padded batch.

- **served**: every token is that of `generate` alone, in float64 (in float32 where the class does
  not run in float64).
- **whole cache**: the same, with `WindowedDraft(model, window=None)`; behind a window it is
  refused.
- Everything else is refused by a `ValueError` before the target reads anything. The page has the
  first part of its sentence; the rest of it says what to do.

`PYTHONPATH=tests python -m sweep.page --write` writes this page.
"""


def short_reason(sentence: str) -> str:
    """A refusal's first part, without the name of the class."""
    reason = re.split(r"[;:] ", sentence)[0]
    reason = re.sub(r"^\w*[A-Z]\w*[. ]", "", reason)
    return reason.replace("|", "/")


def cells(outcomes: dict[str, Outcome]) -> list[str]:
    """What the page says of a class: by column, or in one cell where nothing is served."""
    texts = []
    for column in COLUMNS:
        outcome = outcomes[column]
        if column == "WindowedDraft" and outcome.kind == "refused":
            whole = outcomes[WHOLE]
            texts.append("whole cache" if whole.kind == "served" else describe(whole))
        else:
            texts.append(describe(outcome))
    if not SERVED.intersection(texts):
        return ["; ".join(dict.fromkeys(texts))]
    return texts


def describe(outcome: Outcome) -> str:
    """An outcome in the words of the page."""
    if outcome.kind == "served":
        return "served"
    if outcome.kind == "refused":
        return short_reason(outcome.detail)
    return f"**{outcome.kind}**"


def render(rows: dict[str, list[str]], reasons: dict[str, str]) -> str:
    """The page.

    Args:
        rows: The cells of every class that was tried.
        reasons: Why other classes were not tried.
    """
    served = {name: texts for name, texts in rows.items() if len(texts) == len(COLUMNS)}
    refused = {name: texts for name, texts in rows.items() if name not in served}
    unbuilt = {name: [reason] for name, reason in reasons.items()}
    parts = [
        INTRODUCTION.format(version=transformers.__version__),
        f"## Served: {len(served)}\n\n" + table(served, COLUMNS),
        f"## Refused: {len(refused)}\n\n" + table(refused, ["why"]),
        f"## Not tried: {len(unbuilt)}\n\n" + table(unbuilt, ["why"]),
    ]
    return "\n".join(parts)


def table(rows: dict[str, list[str]], columns: list[str]) -> str:
    """A Markdown table of classes."""
    lines = [
        "| " + " | ".join(["class (configuration)", *columns]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, texts in rows.items():
        lines.append("| " + " | ".join([name, *texts]) + " |")
    return "\n".join(lines) + "\n"


def read_page() -> tuple[str, dict[str, list[str]]]:
    """The version of transformers that the page names, and the cells of every class."""
    page = PAGE.read_text()
    version = re.search(r"transformers (\d\S+) builds", page)
    assert version is not None, f"{PAGE} names no version of transformers"
    rows = {}
    for line in page.splitlines():
        if line.startswith("| ") and not line.startswith("| class"):
            name, *texts = line.strip("| ").split(" | ")
            rows[name] = texts
    return version[1], rows


def try_quietly(entry: Entry) -> dict[str, Outcome]:
    """The outcomes of a class, in a process of its own pool."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    try:
        return try_class(entry)
    except Exception as error:
        unbuilt = Outcome("not built", f"{type(error).__name__}: {error}")
        return dict.fromkeys(ASSISTANTS, unbuilt)


def main() -> None:
    parser = argparse.ArgumentParser(description="The page docs/targets.md.")
    parser.add_argument("--write", action="store_true", help="write it")
    options = parser.parse_args()
    tried = []
    reasons = {}
    for entry in all_entries():
        if entry.reason_unbuilt:
            reasons[entry.name] = entry.reason_unbuilt
        else:
            tried.append(entry)
    rows = {}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for entry, outcomes in zip(tried, pool.imap(try_quietly, tried), strict=True):
            rows[entry.name] = cells(outcomes)
            for name, outcome in outcomes.items():
                if outcome.is_finding:
                    print(f"{entry.name}, {name}: {outcome.kind}: {outcome.detail}", flush=True)
    page = render(rows, reasons)
    if options.write:
        PAGE.write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main()
