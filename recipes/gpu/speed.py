"""Speed at real sizes: plain decoding, plain compiled, and drafting with a set acceptance.

Acceptance is set by hand (models.py); what is measured is what it costs. Behind long prompts the
caches hold noise (prompts.py).

B batch, S prompt tokens.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from captured import capturing
from cells import Cell, Setting
from facts import copy_rate
from models import SHAPES, chance_of, known_target, oracle, random_head
from prompts import NoisePrompt, cache_bytes, check_room
from transformers import StaticCache

from eagle_hf import TreeConfig
from eagle_hf.compat import GENERATE_CACHE
from eagle_hf.measuring import TimedRun, timed
from eagle_hf.measuring.runs import hf_generate, plain_loop

CHAIN = TreeConfig("chain", depth=4)
TREE = TreeConfig(depth=4, top_k=4, nodes=15)
SET_BY_HAND = "acceptance set by hand"
PLAIN = ("static cache, compiled", "generate", "plain loop")
# (tree, tau that is set, how forwards run), in the order of their worth
DRAFTED = (
    (CHAIN, 3.0, "captured"),
    (CHAIN, 3.0, "compiled"),
    (CHAIN, 3.0, "eager"),
    (CHAIN, 3.0, "fixed"),
    (CHAIN, 2.0, "captured"),
    (CHAIN, 4.0, "captured"),
    (TREE, 3.0, "captured"),
)
# (shape, batch, context), in the order of their worth
PLACES = (
    ("8B", 1, 256),
    ("8B", 8, 256),
    ("8B", 32, 256),
    ("8B", 1, 4096),
    ("8B", 8, 4096),
    ("1B", 1, 256),
    ("1B", 8, 256),
    ("1B", 32, 4096),
    ("8B", 64, 256),
    ("8B", 1, 16384),
    ("8B", 8, 16384),
    ("8B", 32, 4096),
    ("8B", 64, 4096),
    ("8B", 32, 16384),
    ("8B", 64, 16384),
    ("1B", 32, 256),
    ("1B", 64, 256),
    ("1B", 1, 4096),
    ("1B", 8, 4096),
    ("1B", 64, 4096),
    ("1B", 1, 16384),
    ("1B", 8, 16384),
    ("1B", 32, 16384),
    ("1B", 64, 16384),
)
TOY_PLACES = (("toy", 1, 32), ("toy", 2, 32))
PROFILED = 4  # rounds
COUNTED = 12  # rounds


@dataclass(frozen=True)
class Place:
    """A target, and the rows behind which it decodes.

    Args:
        shape: a key of SHAPES.
        batch: rows.
        context: tokens of each.
        new_tokens: that each row decodes.
        repeats: timings, of which the best counts.
    """

    shape: str
    batch: int
    context: int
    new_tokens: int = 96
    repeats: int = 3


class Bench:
    """The target and the prompts in use; others make way for them."""

    def __init__(self, device: torch.device):
        self.device = device
        self.shape = ""
        self.target: Any = None
        self.head: Any = None
        self.rate = 0.0  # bytes a second of a copy

    def use(self, place: Place) -> None:
        """Have the place's target, and room for its rows.

        Raises:
            ValueError: the GPU has no room for them.
        """
        if place.shape != self.shape:
            self.target = self.head = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.rate = copy_rate(self.device)
            self.target = known_target(SHAPES[place.shape], torch.bfloat16, self.device)
            self.head = random_head(self.target, SHAPES[place.shape])
            self.shape = place.shape
        # caches of fixed size are powers of two, and 4 GB are what forwards work in
        slots = 1 << (place.context + place.new_tokens - 1).bit_length()
        check_room(cache_bytes(SHAPES[place.shape], place.batch, slots) + 4e9, self.device)

    def prompt(self, place: Place, tau: float) -> NoisePrompt:
        """The rows, for the head with a set acceptance."""
        assistant = oracle(self.head, self.target, chance_of(tau, CHAIN.depth))
        return NoisePrompt(self.target, assistant, place.batch, place.context)

    def reading(self, seconds: float) -> dict:
        """How fast the target's weights are read where a forward takes so long."""
        parameters = self.target.parameters()
        size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        rate = size / seconds
        return {"weights_GB_s": round(rate / 1e9, 1), "of_copy_rate": round(rate / self.rate, 3)}


def cells(setting: Setting) -> list[Cell]:
    """Every way of decoding at every place."""
    bench = Bench(setting.device)
    found = []
    for shape, batch, context in TOY_PLACES if setting.rehearse else PLACES:
        place = Place(shape, batch, context)
        if setting.rehearse:
            place = replace(place, new_tokens=24, repeats=1)
        where = f"{shape}, batch {batch}, context {context}"
        for way in PLAIN:
            found.append(Cell(f"{where}: {way}", partial(plain, bench, place, way)))
        for tree, tau, mode in DRAFTED:
            name = f"{where}: {tree}, {mode}, tau {tau:g} ({SET_BY_HAND})"
            found.append(Cell(name, partial(drafted, bench, place, tree, tau, mode)))
    return found


def plain(bench: Bench, place: Place, way: str) -> dict:
    """Plain decoding, in one of three ways."""
    bench.use(place)
    prompt = bench.prompt(place, 3.0)
    count = place.new_tokens
    if way == "static cache, compiled":
        decode = static_generate(bench.target, prompt.ids, count)
    else:
        make: Any = hf_generate if way == "generate" else plain_loop
        decode = make(prompt, count)
    started = time.perf_counter()
    seconds, tokens = best(decode, place.repeats)
    total = time.perf_counter() - started
    step = seconds * place.batch / tokens
    made = {"tokens_s": tokens / seconds, "ms_step": 1000 * step, "total_s": round(total, 1)}
    return made | bench.reading(step)


def best(decode: Callable[[], tuple[float, int]], repeats: int) -> tuple[float, int]:
    """The fastest of some calls, after one that warms up."""
    decode()
    return min(decode() for _ in range(repeats))


def static_generate(target: Any, ids: torch.Tensor, count: int) -> Callable:
    """`generate` on a static cache, whose forward transformers compiles by itself on a GPU.

    The time of one token, prompt included, is taken off.
    """
    cache = StaticCache(config=target.config, max_cache_len=ids.shape[1] + count + 1)

    def call(new_tokens: int) -> None:
        cache.reset()
        settings = {GENERATE_CACHE: cache, "max_new_tokens": new_tokens}
        target.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
            **settings,
        )

    def decode() -> tuple[float, int]:
        one = timed(partial(call, 1), ids.device)
        many = timed(partial(call, 1 + count), ids.device)
        return max(many - one, 1e-9), count * len(ids)

    return decode


def stance_of(mode: str) -> AbstractContextManager:
    """How the forwards of compile=True are run: compiled, only captured, or as they are."""
    if mode == "fixed":
        return torch.compiler.set_stance("force_eager")
    return capturing() if mode == "captured" else nullcontext()


def drafted(bench: Bench, place: Place, tree: TreeConfig, tau: float, mode: str) -> dict:
    """Drafting by the head whose acceptance is set.

    Raises:
        ValueError: it cannot run here.
    """
    if bench.device.type != "cuda" and mode != "eager":
        raise ValueError("fixed sizes and CUDA graphs exist on a CUDA GPU alone")
    bench.use(place)
    prompt = bench.prompt(place, tau)
    made = timed_drafts(prompt, replace(tree, compile=mode != "eager"), mode, place)
    return made | {"tau_set_by_hand": tau} | bench.reading(made["ms_round"] / 1000)


def timed_drafts(prompt: Any, tree: TreeConfig, mode: str, place: Place) -> dict:
    """Tokens a second, and what a round is; the first call holds the compiler's seconds."""
    run = TimedRun(prompt, tree, place.new_tokens)
    with stance_of(mode):
        started = time.perf_counter()
        run.decode()
        first = time.perf_counter() - started
        seconds, tokens = min(run.decode() for _ in range(place.repeats))
        made = {"tokens_s": tokens / seconds, "first_s": round(first, 1)}
        return made | rounds(run, prompt.ids.device)


def rounds(run: TimedRun, device: torch.device) -> dict:
    """Milliseconds of a round, its tokens, and which share of it the GPU waits for the CPU."""
    is_gpu = device.type == "cuda"
    ready = run.start()
    emitted = 0
    count = 0
    synchronise(device)
    started = time.perf_counter()
    with torch.no_grad():
        while count < COUNTED and not any(ready.sequences.finished):
            emitted += ready.round().tokens
            count += 1
    synchronise(device)
    seconds = (time.perf_counter() - started) / count
    phases = {name: round(value, 4) for name, value in ready.watch.seconds.items()}
    ready.cache.release()
    return {
        "ms_round": 1000 * seconds,
        "tokens_round": emitted / count / len(run.prompt.ids),
        "gpu_waits": 1 - min(1.0, busy_seconds(run) / seconds) if is_gpu else None,
        "phases": phases,
    }


def busy_seconds(run: TimedRun) -> float:
    """Seconds of a round's kernels; profiled apart, because profiling slows Python down."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    ready = run.start()
    with torch.no_grad(), torch.profiler.profile(activities=activities) as profile:
        for _ in range(PROFILED):
            ready.round()
    ready.cache.release()
    busy = sum(event.self_device_time_total for event in profile.key_averages())
    return busy / 1e6 / PROFILED


def synchronise(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
