"""Seconds of decoding alone, and what a cost table says of the same rounds.

A prompt is read once; every way of decoding then starts again and again from a copy of what was left behind, all ways taking
turns, so that long prompts cost their reading once and a slow moment of the machine hits every way.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList

from eagle_hf.decoding.loop import Run
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.decoding.timing import timed
from eagle_hf.evaluation.intervals import ratio_interval
from eagle_hf.head.configuration import TreeConfig
from eagle_hf.planning.cost import CostTable


class Started:
    """Greedy decoding of `new_tokens` after prompts [B, S] of one length, from behind the prefill and the first round."""

    @torch.no_grad()
    def __init__(self, target, assistant, input_ids: torch.Tensor, new_tokens: int):
        limit = input_ids.shape[1] + new_tokens
        config = GenerationConfig(max_length=limit, do_sample=False)
        self.run = Run(target, assistant, input_ids, LogitsProcessorList(), StoppingCriteriaList([MaxLengthCriteria(limit)]), config)
        self.run.prefill({"attention_mask": torch.ones_like(input_ids), "use_cache": True, "logits_to_keep": 1})
        self.run.round()  # reads the prompt with the drafter too
        models = [target, assistant, getattr(assistant, "model", None)]
        self.shared = {id(part): part for model in models if model is not None for part in getattr(model, "modules", lambda: [model])()}

    def again(self) -> Run:
        """A copy of the run as it stands; models are shared."""
        return copy.deepcopy(self.run, dict(self.shared))

    def decode(self) -> tuple[float, int]:
        """(seconds, tokens emitted) of the rounds that are left."""
        run = self.again()
        return timed(lambda: finish(run), run.ids.device), sum(run.lengths) - sum(self.run.lengths)

    @torch.no_grad()
    def promised(self, table: CostTable) -> tuple[float, DecodingStats]:
        """(tokens per second of the rounds that are left by a table's seconds, what the whole run did)."""
        run, seconds = self.again(), 0.0
        log = Log(run)
        while not all(run.finished):
            log.widths.clear()
            cell = table.at(len(run.rows), max(run.lengths[row] for row in run.rows))
            run.round()
            seconds += cell.round_seconds(log.nodes, log.widths)
        return (sum(run.lengths) - sum(self.run.lengths)) / seconds, run.statistics()


class Log:
    """What a run's newest round ran: `nodes` drafts read by the target, `widths` of the drafter's forwards."""

    def __init__(self, run: Run):
        self.nodes, self.widths, drafter = 0, [], run.drafter
        extend, step, read = drafter.extend, drafter.step, run._read

        def logged_extend():
            self.widths.append(1)
            return extend()

        def logged_step(tokens, *rest):
            self.widths.append(tokens.shape[1])
            return step(tokens, *rest)

        def logged_read(tree):
            self.nodes = tree.tokens.shape[1] - 1
            return read(tree)

        drafter.extend, drafter.step, run._read = logged_extend, logged_step, logged_read


@torch.no_grad()
def finish(run: Run) -> None:
    """Every round that is left."""
    while not all(run.finished):
        run.round()


def plain(target, input_ids: torch.Tensor, new_tokens: int) -> Callable[[], tuple[float, int]]:
    """A function that decodes `new_tokens` by `generate` alone after prompts [B, S] read once: (seconds, tokens emitted)."""
    cache = DynamicCache()
    with torch.no_grad():
        logits = target(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    ids = torch.cat([input_ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    settings = dict(max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0, attention_mask=torch.ones_like(ids))

    def decode():
        start = copy.deepcopy(cache)
        return timed(lambda: target.generate(ids, past_key_values=start, **settings), ids.device), len(ids) * new_tokens

    return decode


def interleaved(ways: dict[str, Callable[[], tuple[float, int]]], repeats: int) -> dict[str, list[float]]:
    """Tokens per second of every way, `repeats` times, all in turn; a first turn warms up and does not count."""
    rates = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, decode in ways.items():
            seconds, tokens = decode()
            rates[name].append(tokens / seconds)
    return {name: found[1:] for name, found in rates.items()}


HEADER = "| batch | length | drafting | tau | plain tok/s | speed | 95 % | promised | achieved of it |\n" + "|---" * 9 + "|"


@dataclass(frozen=True)
class Speed:
    """One way of drafting in one cell: speeds over plain `generate`, as measured and as a cost table promised; a row of a table."""

    batch: int
    length: int
    way: str
    tau: float
    plain: float
    speed: float
    interval: tuple[float, float]
    promised: float

    @property
    def achieved(self) -> float:
        """What was measured, of what was promised."""
        return self.speed / self.promised

    def __str__(self) -> str:
        speeds = f"{self.plain:.1f} | {self.speed:.2f}x | {self.interval[0]:.2f}-{self.interval[1]:.2f} | {self.promised:.2f}x | {self.achieved:.2f}"
        return f"| {self.batch} | {self.length} | {self.way} | {self.tau:.2f} | {speeds} |"


def measure_cell(
    target, assistant, trees: dict[str, TreeConfig], input_ids: torch.Tensor, new_tokens: int, repeats: int, costs: CostTable
) -> list[Speed]:
    """How fast an assistant decodes with each of `trees` after prompts [B, S], `repeats` times in turn."""
    (batch, length), own, started = input_ids.shape, assistant.tree, {}
    try:
        for name, assistant.tree in trees.items():
            started[name] = Started(target, assistant, input_ids, new_tokens)
    finally:
        assistant.tree = own
    ways = {"plain": plain(target, input_ids, new_tokens)} | {name: start.decode for name, start in started.items()}
    rates, one_token = interleaved(ways, repeats), costs.at(batch, length).target[0] / batch
    baseline, rows = statistics.median(rates["plain"]), []
    for name, start in started.items():
        rate, stats = start.promised(costs)
        speed, interval = statistics.median(rates[name]) / baseline, ratio_interval(rates[name], rates["plain"])
        rows.append(Speed(batch, length, name, stats.tau, baseline, speed, interval, rate * one_token))
    return rows


def draw_speeds(path: str | Path, rows: list[Speed]) -> None:
    """What was measured over what was promised, a point a row."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5), layout="constrained")
    for way in dict.fromkeys(row.way for row in rows):
        promised, measured, low, high = zip(*((row.promised, row.speed, *row.interval) for row in rows if row.way == way))
        errors = [[max(0, m - l) for m, l in zip(measured, low)], [max(0, h - m) for m, h in zip(measured, high)]]
        axes.errorbar(promised, measured, errors, fmt="o", label=way)
    ends = [0, 1.1 * max(max(row.promised, row.speed) for row in rows)]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set(xlabel="promised by the cost table", ylabel="measured, over generate", xlim=ends, ylim=ends)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
