"""Speed at real sizes: plain decoding, plain compiled, and drafting with a set acceptance.

Acceptance is set by hand (models.py); what is measured is what it costs.

B batch, S prompt tokens.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from captured import capturing
from models import Shape, known_target, oracle, random_head
from transformers import StaticCache

from eagle_hf import TreeConfig
from eagle_hf.compat import GENERATE_CACHE
from eagle_hf.measuring import PrefilledPrompt, TimedRun, timed
from eagle_hf.measuring.runs import plain_loop

CHAIN = TreeConfig("chain", depth=4)
TREE = TreeConfig(depth=4, top_k=4, nodes=15)
MODES = ("captured", "compiled", "eager")
CHANCE = 0.75  # of a draft's being right


@dataclass(frozen=True)
class Cell:
    """Rows, tokens behind which they decode, and how many."""

    batch: int
    context: int
    new_tokens: int = 96


def speed(
    name: str,
    shape: Shape,
    cells: list[Cell],
    trees: list[TreeConfig],
    device: torch.device,
    repeats: int = 3,
) -> Iterator[dict]:
    """One record a way of decoding and cell: tokens per second, and milliseconds of a round."""
    target = known_target(shape, torch.bfloat16, device)
    head = random_head(target, shape)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in target.parameters())
    yield {"shape": name, "weight_bytes": weights}
    assistant = oracle(head, target, CHANCE)
    for cell in cells:
        ids = torch.randint(3, shape.vocabulary, (cell.batch, cell.context), device=device)
        prompt = PrefilledPrompt(target, assistant, ids)
        yield record(name, cell, "plain loop", best(plain_loop(prompt, 64), repeats))
        yield record(name, cell, "generate", best(generate(target, ids, 64), repeats))
        if cell is cells[0]:
            started = time.perf_counter()
            rate = best(static_generate(target, ids, 64), repeats)
            made = record(name, cell, "generate, static cache, compiled", rate)
            yield made | {"total_s": time.perf_counter() - started}
        for tree in trees:
            for mode in MODES:
                if mode != "captured" or device.type == "cuda":
                    yield drafted(name, cell, prompt, tree, mode, repeats)


def record(shape: str, cell: Cell, way: str, rate: tuple[float, int]) -> dict:
    """A row: tokens per second over all rows of the batch."""
    seconds, tokens = rate
    return {
        "shape": shape,
        "batch": cell.batch,
        "context": cell.context,
        "way": way,
        "tokens_s": tokens / seconds,
        "ms_token": 1000 * seconds * cell.batch / tokens,
    }


def best(decode: Callable[[], tuple[float, int]], repeats: int) -> tuple[float, int]:
    """The fastest of some calls, after one that warms up."""
    decode()
    return min(decode() for _ in range(repeats))


def generate(target: Any, ids: torch.Tensor, count: int) -> Callable:
    """A function that decodes by `generate` alone."""

    def call(new_tokens: int) -> None:
        target.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )

    return differences(call, ids, count)


def differences(call: Callable[[int], None], ids: torch.Tensor, count: int) -> Callable:
    """A function that times `count` tokens of a call: the prompt's reading is taken off."""

    def decode() -> tuple[float, int]:
        one = timed(lambda: call(1), ids.device)
        many = timed(lambda: call(1 + count), ids.device)
        return many - one, count * len(ids)

    return decode


def static_generate(target: Any, ids: torch.Tensor, count: int) -> Callable:
    """`generate` on a static cache, whose forward transformers compiles by itself on a GPU."""
    cache = StaticCache(config=target.config, max_cache_len=2 * ids.shape[1])

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

    return differences(call, ids, count)


def stance_of(mode: str) -> AbstractContextManager:
    """How the forwards of compile=True are run: compiled, only captured, or as they are."""
    if mode == "fixed":
        return torch.compiler.set_stance("force_eager")
    return capturing() if mode == "captured" else nullcontext()


def drafted(
    shape: str, cell: Cell, prompt: PrefilledPrompt, tree: TreeConfig, mode: str, repeats: int
) -> dict:
    """A row for one way of drafting; seconds of the first call hold the compiler's."""
    run = TimedRun(prompt, replace(tree, compile=mode != "eager"), cell.new_tokens)
    way = f"{tree}, {mode}"
    try:
        with stance_of(mode):
            started = time.perf_counter()
            run.decode()
            first = time.perf_counter() - started
            made = record(shape, cell, way, min(run.decode() for _ in range(repeats)))
            return made | {"first_s": first} | rounds(run, prompt.ids.device)
    except Exception as error:  # a broken way must not hide the others
        text = f"{type(error).__name__}: {error}"
        return {"shape": shape, "batch": cell.batch, "way": way, "error": text[:2000]}


def rounds(run: TimedRun, device: torch.device) -> dict:
    """Milliseconds of a round, its tokens, and which share of it the GPU computes."""
    count = 12
    ready = run.start()
    emitted = 0
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(count):
            emitted += ready.round().tokens
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - started) / count
    # how long the kernels of a round take: profiled apart, because profiling slows Python down
    with torch.no_grad(), torch.profiler.profile(activities=activities) as profile:
        for _ in range(4):
            ready.round()
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 4e6
    phases = {name: round(value, 4) for name, value in ready.watch.seconds.items()}
    ready.cache.release()
    return {
        "ms_round": 1000 * seconds,
        "tokens_round": emitted / count / len(run.prompt.ids),
        "gpu_busy": busy / seconds,
        "phases": phases,
    }
