"""Seconds of decoding alone, and what a cost table says of the same rounds.

Prompts are read once; every way of decoding then starts again and again from a copy of what was left behind, all ways taking
turns, so that a slow moment of the machine hits every way. The clock stops where the first row ends: a cell is a batch of so many
rows. Plain decoding is timed twice: by `generate`, which users compare with, and by the leanest loop over the forwards that a cost
table knows (`alone`), which is what the table's promises are relative to.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from eagle_hf.compat import GENERATE_CACHE, cache_inputs, last_logits
from eagle_hf.decoding.cache import TreeCache
from eagle_hf.decoding.drafters import bind
from eagle_hf.decoding.loop import Run, read
from eagle_hf.decoding.masks import MaskFormat
from eagle_hf.decoding.reading import reading_tree
from eagle_hf.decoding.stats import DecodingStats, Stopwatch
from eagle_hf.decoding.timing import given_tree, timed
from eagle_hf.head.configuration import TreeConfig
from eagle_hf.measuring.intervals import ratio_interval
from eagle_hf.planning.cost import CostTable
from eagle_hf.target import unwrap


class Prompt:
    """Prompts [B, S] of one length as a target has read them: its cache, the logits at their ends, the streams that `assistant` reads."""

    @torch.no_grad()
    def __init__(self, target, assistant, input_ids: torch.Tensor):
        self.target, self.ids, self.cache = target, input_ids, TreeCache()
        with given_tree(assistant, TreeConfig()):
            self.drafter = bind(assistant, target, self.cache, Stopwatch())
        seen = torch.ones_like(input_ids)
        inputs = (
            {"attention_mask": seen}
            | cache_inputs(unwrap(target), self.cache)
            | last_logits(unwrap(target))
        )
        with self.drafter.watching(seen.bool()):
            self.logits, self.states = read(
                target, self.drafter.aux_layer_ids, input_ids=input_ids, **inputs
            )

    @property
    def first(self) -> torch.Tensor:
        """The target's token [B, 1] after each prompt."""
        return self.logits[:, -1].argmax(-1, keepdim=True)

    def copy_to(self, cache: Cache) -> Cache:
        """An empty cache, which then holds the prompts."""
        for index, layer in enumerate(self.cache.layers):
            cache.update(layer.keys, layer.values, index)  # every cache copies what it is given
        return cache

    def read_by(self, run: Run) -> None:
        """Let a run's prefill find what was read."""

        def read(**inputs):
            self.copy_to(run.cache)
            if hasattr(self.drafter, "selection"):  # what a drafter chose while the target read
                run.drafter.selection = self.drafter.selection
            return self.logits, self.states

        run.read = read


class Started:
    """Greedy decoding after prompts, from behind the prefill and the first round until a row has `new_tokens`."""

    @torch.no_grad()
    def __init__(self, prompt: Prompt, assistant, new_tokens: int):
        target, limit = prompt.target, prompt.ids.shape[1] + new_tokens
        config = GenerationConfig(
            max_length=limit, do_sample=False, return_dict_in_generate=True
        )  # no row leaves: the clock stops there
        self.run = Run(
            target,
            assistant,
            prompt.ids,
            LogitsProcessorList(),
            StoppingCriteriaList([MaxLengthCriteria(limit)]),
            config,
        )
        prompt.read_by(self.run)
        self.run.prefill({"attention_mask": torch.ones_like(prompt.ids)})
        if not any(self.run.finished):
            self.run.round()  # reads the prompt with the drafter too
        if any(self.run.finished):
            raise ValueError(
                f"new_tokens is {new_tokens}, and a row ended with the first round: there is nothing left to time; decode more"
            )
        models = [target, assistant, getattr(assistant, "model", None)]
        self.shared = {
            id(part): part
            for model in models
            if model is not None
            for part in getattr(model, "modules", lambda: [model])()
        }

    def again(self) -> Run:
        """A copy of the run as it stands; models are shared."""
        return copy.deepcopy(self.run, dict(self.shared))

    def decode(self) -> tuple[float, int]:
        """(seconds, tokens emitted) of the rounds until a row has ended."""
        run = self.again()
        return timed(lambda: run_on(run), run.ids.device), sum(run.lengths) - sum(self.run.lengths)

    @torch.no_grad()
    def promised(self, table: CostTable) -> tuple[float, DecodingStats]:
        """(tokens per second of these rounds by a table's seconds, what the run had done by then)."""
        run, seconds = self.again(), 0.0
        log = Log(run)
        while not any(run.finished):
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
def run_on(run: Run) -> None:
    """Every round that is left while all rows run."""
    while not any(run.finished):
        run.round()


def generating(prompt: Prompt, new_tokens: int) -> Callable[[], tuple[float, int]]:
    """A function that decodes `new_tokens` by `generate` alone: (seconds, tokens emitted)."""
    ids = torch.cat([prompt.ids, prompt.first], dim=1)
    settings = dict(
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        attention_mask=torch.ones_like(ids),
    )

    def decode():
        cache, outputs = prompt.copy_to(DynamicCache()), []
        seconds = timed(
            lambda: outputs.append(
                prompt.target.generate(ids, **{GENERATE_CACHE: cache}, **settings)
            ),
            ids.device,
        )
        return seconds, outputs[0][:, ids.shape[1] :].numel()

    return decode


def alone(prompt: Prompt, new_tokens: int) -> Callable[[], tuple[float, int]]:
    """A function that decodes `new_tokens` by one-token forwards over a cache that is not copied, and nothing else: (seconds, tokens emitted)."""

    def decode():
        cache, outputs = prompt.copy_to(TreeCache(limit=prompt.ids.shape[1] + new_tokens)), []
        seconds = timed(
            lambda: outputs.append(_one_by_one(prompt.target, cache, prompt.first, new_tokens)),
            prompt.ids.device,
        )
        return seconds, outputs[0].numel()

    return decode


@torch.no_grad()
def _one_by_one(target, cache: TreeCache, token: torch.Tensor, count: int) -> torch.Tensor:
    """The target's next `count` tokens [B, count] after `token` [B, 1], for rows without padding."""
    tokens, form, reads = [], MaskFormat(target), cache_inputs(unwrap(target), cache)
    for _ in range(count):
        slots = torch.arange(cache.get_seq_length() + 1, device=token.device).expand(len(token), -1)
        mask = form(
            torch.ones_like(slots, dtype=torch.bool)[:, None], slots[:, -1:], slots
        )  # with none, sdpa copies the cache
        with reading_tree():
            logits = target(
                input_ids=token, position_ids=slots[:, -1:], attention_mask=mask, **reads
            ).logits
        token = logits[:, -1].max(-1).indices[:, None]  # argmax: 6x slower in bf16 on a CPU
        tokens.append(token)
    return torch.cat(tokens, dim=1)


def interleaved(
    ways: dict[str, Callable[[], tuple[float, int]]], repeats: int
) -> dict[str, list[float]]:
    """Tokens per second of every way, `repeats` times, all in turn; a first turn warms up and does not count."""
    rates = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, decode in ways.items():
            seconds, tokens = decode()
            rates[name].append(tokens / seconds)
    return {name: found[1:] for name, found in rates.items()}


GENERATE_SHARE = 4  # of the tokens `generate` decodes one in so many, for it is slow behind long prompts; a call's own milliseconds weigh more then
HEADER = (
    "| batch | length | drafting | tau | generate tok/s | over it | plain loop tok/s | over it | 95 % | promised | achieved | at most |\n"
    + "|---" * 12
    + "|"
)


@dataclass(frozen=True)
class Speed:
    """One way of drafting in one cell, a row of a table: its speed in tokens per second over that of plain decoding.

    generate: tokens per second of `generate`; plain: of a loop over the target's forwards alone; over_generate, over_plain: this way's over
    theirs; interval: of over_plain, 95 %; promised: over_plain by a cost table.
    """

    batch: int
    length: int
    way: str
    tau: float
    generate: float
    over_generate: float
    plain: float
    over_plain: float
    interval: tuple[float, float]
    promised: float

    @property
    def achieved(self) -> float:
        """What was measured, of what was promised."""
        return self.over_plain / self.promised

    def __str__(self) -> str:
        measured = f"{self.generate:.1f} | {self.over_generate:.2f}x | {self.plain:.1f} | {self.over_plain:.2f}x | {self.interval[0]:.2f}-{self.interval[1]:.2f}"
        against = (
            f"{self.promised:.2f}x | {self.achieved:.2f} | {self.interval[1] / self.promised:.2f}"
        )
        return f"| {self.batch} | {self.length} | {self.way} | {self.tau:.2f} | {measured} | {against} |"


def measure_cell(
    target,
    assistant,
    trees: dict[str, TreeConfig],
    input_ids: torch.Tensor,
    new_tokens: int,
    repeats: int,
    costs: CostTable,
) -> list[Speed]:
    """How fast an assistant decodes with each of `trees` after prompts [B, S], `repeats` times in turn."""
    (batch, length), started, prompt = input_ids.shape, {}, Prompt(target, assistant, input_ids)
    for name, tree in trees.items():
        with given_tree(assistant, tree):
            started[name] = Started(prompt, assistant, new_tokens)
    ways = {
        "generate": generating(prompt, max(1, new_tokens // GENERATE_SHARE)),
        "plain": alone(prompt, new_tokens),
    }
    rates = interleaved(ways | {name: start.decode for name, start in started.items()}, repeats)
    one_token = costs.at(batch, length).target[0] / batch
    median, rows = {name: statistics.median(found) for name, found in rates.items()}, []
    for name, start in started.items():
        (rate, stats), interval = start.promised(costs), ratio_interval(rates[name], rates["plain"])
        over_generate, over_plain = (median[name] / median[base] for base in ways)
        rows.append(
            Speed(
                batch,
                length,
                name,
                stats.tau,
                median["generate"],
                over_generate,
                median["plain"],
                over_plain,
                interval,
                rate * one_token,
            )
        )
    return rows


def draw_speeds(path: str | Path, rows: list[Speed]) -> None:
    """What was measured over what was promised, a point a row."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5), layout="constrained")
    for way in dict.fromkeys(row.way for row in rows):
        promised, measured, low, high = zip(
            *((row.promised, row.over_plain, *row.interval) for row in rows if row.way == way)
        )
        errors = [
            [max(0, m - l) for m, l in zip(measured, low)],
            [max(0, h - m) for m, h in zip(measured, high)],
        ]
        axes.errorbar(promised, measured, errors, fmt="o", label=way)
    ends = [0, 1.1 * max(max(row.promised, row.over_plain) for row in rows)]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set(
        xlabel="promised by the cost table",
        ylabel="measured, over a plain loop",
        xlim=ends,
        ylim=ends,
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
