"""How fast drafting is beside plain decoding, and what a cost table predicts of the same rounds.

Prompts are read once. Every method of decoding then starts again and again behind them, all methods
taking turns, so that a slow moment of the machine hits every method. The clock stops where the
first row ends: a cell is a batch of so many rows. Plain decoding is timed twice: by `generate`,
which users compare with, and by the leanest loop over the forwards that a cost table knows, which
is what the table's predictions are relative to.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.intervals import ratio_interval
from eagle_hf.measuring.runs import PrefilledPrompt, TimedRun, Timing, hf_generate, plain_loop
from eagle_hf.planning.cost import CostTable

# `generate` decodes one token in so many: it is slow behind long prompts. A call's own milliseconds
# weigh more then.
GENERATE_SHARE = 4
SPEEDS = "speeds.json"
COLUMNS = (
    "batch",
    "length",
    "drafting",
    "tau",
    "generate tok/s",
    "over it",
    "plain loop tok/s",
    "over it",
    "95 %",
    "predicted",
    "measured / predicted",
    "at most",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


@dataclass(frozen=True)
class Speed:
    """One way of drafting in one cell: a row of the table under HEADER.

    Attributes:
        batch, length: rows, and prompt tokens of each.
        method: the name of the tree.
        tau: tokens per round.
        generate, plain: tokens per second of `generate`, and of a loop over the target's forwards.
        over_generate, over_plain: this method's speed as a multiple of theirs.
        interval: of over_plain, 95 %.
        predicted: over_plain by a cost table.
    """

    batch: int
    length: int
    method: str
    tau: float
    generate: float
    over_generate: float
    plain: float
    over_plain: float
    interval: tuple[float, float]
    predicted: float

    @property
    def achieved(self) -> float:
        """What was measured, as a share of what was predicted."""
        return self.over_plain / self.predicted

    def __str__(self) -> str:
        low, high = self.interval
        cells = (
            str(self.batch),
            str(self.length),
            self.method,
            f"{self.tau:.2f}",
            f"{self.generate:.1f}",
            f"{self.over_generate:.2f}x",
            f"{self.plain:.1f}",
            f"{self.over_plain:.2f}x",
            f"{low:.2f}-{high:.2f}",
            f"{self.predicted:.2f}x",
            f"{self.achieved:.2f}",
            f"{high / self.predicted:.2f}",
        )
        return f"| {' | '.join(cells)} |"


def interleaved(methods: dict[str, Callable[[], Timing]], repeats: int) -> dict[str, list[float]]:
    """Tokens per second of every method, `repeats` times, all in turn.

    A first turn warms up and does not count.
    """
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(repeats + 1):
        for name, decode in methods.items():
            seconds, tokens = decode()
            if turn > 0:
                rates[name].append(tokens / seconds)
    return rates


def measure_cell(
    target,
    assistant,
    trees: dict[str, TreeConfig],
    input_ids: torch.Tensor,
    new_tokens: int,
    repeats: int,
    costs: CostTable,
) -> list[Speed]:
    """How fast an assistant decodes with each of several trees.

    Args:
        target: the model that verifies.
        assistant: a draft head, a WindowedDraft or a SelfSpeculation.
        trees: by the name of the method.
        input_ids: prompts [B, S] of one length.
        new_tokens: decoded after them, of the longest row.
        repeats: of every method.
        costs: what the predictions come from.

    Returns:
        A row per tree.
    """
    batch, length = input_ids.shape
    prompt = PrefilledPrompt(target, assistant, input_ids)
    runs = {name: TimedRun(prompt, tree, new_tokens) for name, tree in trees.items()}
    methods = {
        "generate": hf_generate(prompt, max(1, new_tokens // GENERATE_SHARE)),
        "plain": plain_loop(prompt, new_tokens),
    }
    for name, run in runs.items():
        run.start()  # raises where there is nothing to time
        methods[name] = run.decode
    rates = interleaved(methods, repeats)
    median = {name: statistics.median(found) for name, found in rates.items()}
    one_token = costs.at(batch, length).target[0] / batch  # predicted seconds of plain decoding
    rows = []
    for name, run in runs.items():
        rate, stats = run.predicted(costs)
        speed = Speed(
            batch=batch,
            length=length,
            method=name,
            tau=stats.tau,
            generate=median["generate"],
            over_generate=median[name] / median["generate"],
            plain=median["plain"],
            over_plain=median[name] / median["plain"],
            interval=ratio_interval(rates[name], rates["plain"]),
            predicted=rate * one_token,
        )
        rows.append(speed)
    return rows


def save_speeds(folder: str | Path, rows: list[Speed], machine: dict[str, Any]) -> None:
    """Write speeds.json into a folder, for `eagle-hf report`; it appears whole or not at all.

    Args:
        folder: an existing one.
        rows: what `measure_cell` found.
        machine: where, as the plan's costs say it.
    """
    content = {"machine": machine, "rows": [asdict(row) for row in rows]}
    scratch = Path(folder, SPEEDS + ".tmp")
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    scratch.rename(Path(folder, SPEEDS))


def draw_speeds(path: str | Path, rows: list[Speed]) -> None:
    """Draw what was measured over what was predicted, a point a row.

    Args:
        path: of the picture.
        rows: what `measure_cell` found.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5), layout="constrained")
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        below = [max(0, row.over_plain - row.interval[0]) for row in own]
        above = [max(0, row.interval[1] - row.over_plain) for row in own]
        predicted = [row.predicted for row in own]
        measured = [row.over_plain for row in own]
        axes.errorbar(predicted, measured, [below, above], fmt="o", label=method)
    largest = max(max(row.predicted, row.over_plain) for row in rows)
    ends = [0, 1.1 * largest]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set(
        xlabel="predicted by the cost table",
        ylabel="measured, over a plain loop",
        xlim=ends,
        ylim=ends,
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
