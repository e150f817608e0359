"""Timing the forwards of a round by themselves, on caches full of noise.

B batch, S tokens in the cache, n tokens read together, w nodes drafted together, H hidden.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from eagle_hf.compat import last_logits
from eagle_hf.decoding.assistants import Drafter
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.forward import TargetForward
from eagle_hf.decoding.masks import MaskFormat
from eagle_hf.head.base import DraftHead
from eagle_hf.target import execution_device, unwrap


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Time a call.

    Args:
        function: is called once.
        device: where it computes.

    Returns:
        Seconds; on a CUDA GPU between two events, its waiting for Python included.
    """
    if device.type != "cuda":
        started = time.perf_counter()
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - started
    with torch.cuda.device(device):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        begin.record()
        function()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1000


class Turns:
    """Functions timed in turn, so that a slow moment of the machine hits all of them."""

    def __init__(self, functions: Sequence[Callable[[], object]], device: torch.device):
        self.functions = functions
        self.device = device
        self.seconds: list[list[float]] = [[] for _ in functions]

    def take(self) -> None:
        """Time every function once."""
        for function, seconds in zip(self.functions, self.seconds, strict=True):
            seconds.append(timed(function, self.device))

    def medians(self) -> list[float]:
        """Of every function's seconds but the first, which warm up."""
        return [statistics.median(seconds[1:]) for seconds in self.seconds]


def target_forward(
    target,
    cache,
    batch: int,
    length: int,
    count: int,
    attention: Callable[[], AbstractContextManager] | None = None,
    compile: bool | None = None,
) -> Callable[[], None]:
    """A function that lets the target read tokens on top of its cache, and forgets them.

    Args:
        target: a causal LM.
        cache: holds `length` tokens of each row.
        batch: rows.
        length: tokens in the cache.
        count: tokens read, a row.
        attention: the block in which they are read, see `TargetForward`.
        compile: whether by a compiled forward, see there.

    Returns:
        The function.
    """
    device = execution_device(target)
    ids = random_ids(target, batch, count)
    positions = torch.arange(length, length + count, device=device).expand(batch, -1)
    keys = torch.arange(length + count, device=device).expand(batch, -1)
    seen = torch.ones(batch, count, length + count, dtype=torch.bool, device=device).tril(length)
    mask = MaskFormat(target)(seen, positions, keys)
    forward = TargetForward(target, cache, attention=attention, compile=compile)

    def run() -> None:
        forward.read_nodes(ids, positions, mask, base=length)
        cache.crop(-count)

    return run


def draft_forward(
    drafter: Drafter, target, batch: int, length: int, width: int
) -> Callable[[], None]:
    """A function that drafts the children of `width` nodes a row.

    The drafter has read `length` tokens of each of `batch` rows; noise, if it has read none.
    """
    device = execution_device(target)
    config = unwrap(target).config.get_text_config()
    ids = random_ids(target, batch, width)
    hidden = _noise((batch, width, config.hidden_size), drafter.model)
    own = torch.eye(width, dtype=torch.bool, device=device).expand(batch, -1, -1)
    if not drafter.slots.has_started:
        _fill(drafter, target, batch, length)

    def run() -> None:
        outputs = drafter.step(ids, hidden, 0, own)
        drafter.propose(outputs, min(width, drafter.vocabulary))

    return run


@torch.no_grad()
def noise_cache(target, batch: int, length: int) -> TargetCache:
    """A target's cache as if it had read a text, full of noise.

    Args:
        target: a causal LM.
        batch: rows.
        length: tokens of each.

    Returns:
        The cache.
    """
    cache = TargetCache()
    for layer, (keys, values) in enumerate(_layer_shapes(target)):
        key_noise = _noise((batch, keys[1], length, keys[3]), target)
        value_noise = _noise((batch, values[1], length, values[3]), target)
        cache.update(key_noise, value_noise, layer)
    return cache


def _layer_shapes(model) -> list[tuple[torch.Size, torch.Size]]:
    """The shapes [1, h, 1, D] of one token's keys and values, of every layer that keeps its own.

    Keys may be wider than values, layers may differ, and some read another's. So a token is read.
    """
    inner = unwrap(model)
    if isinstance(inner, DraftHead):  # one layer of Llama
        shape = torch.Size((1, inner.config.num_key_value_heads, 1, inner.config.head_dim))
        return [(shape, shape)]
    return [(layer.keys.shape, layer.values.shape) for layer in read_cache(model, 1, 1).layers]


def read_cache(target, batch: int, length: int) -> TargetCache:
    """The target's cache after it has read `length` random tokens of each of `batch` rows."""
    cache = TargetCache()
    ids = random_ids(target, batch, length)
    TargetForward(target, cache).read_prompt(ids, **last_logits(unwrap(target)))
    return cache


def random_ids(target, batch: int, count: int) -> torch.Tensor:
    """Any tokens [batch, count]."""
    vocabulary = unwrap(target).config.get_text_config().vocab_size
    device = execution_device(target)
    shape = (batch, count)
    return torch.randint(0, vocabulary, shape, generator=_generator(device), device=device)


def _fill(drafter: Drafter, target, batch: int, length: int) -> None:
    """Let a drafter hold noise for `length` tokens."""
    device = execution_device(target)
    counts = torch.full((batch,), length, device=device)
    kept = drafter.slots.start(counts).shape[1]
    everything = torch.arange(kept, device=device).expand(batch, -1)
    noise = noise_cache(drafter.model, batch, kept).layers
    layers = drafter.cache.with_layers(len(noise))
    for layer, full in zip(layers, noise, strict=True):
        layer.keep(full.keys, full.values, everything)


def _generator(device: torch.device) -> torch.Generator:
    """Random numbers of its own, because a caller may be sampling meanwhile."""
    return torch.Generator(device).manual_seed(0)


def _noise(shape: tuple[int, ...], model) -> torch.Tensor:
    """Noise in a model's dtype, on its device."""
    device = execution_device(model)
    generator = _generator(device)
    return torch.randn(shape, generator=generator, dtype=model.dtype, device=device)
