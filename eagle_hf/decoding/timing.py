"""Timing the forwards of a round by themselves, on caches full of noise: where a `CostTable` comes from.

B batch, S tokens in the cache, n tokens read together. All settings of a cell take turns, so that a slow moment of the
machine hits all of them; medians are kept.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from transformers import Cache

from eagle_hf.compat import cache_inputs, last_logits
from eagle_hf.decoding.cache import TreeCache
from eagle_hf.decoding.drafters import EagleDrafter, bind
from eagle_hf.decoding.masks import MaskFormat
from eagle_hf.decoding.reading import reading_tree
from eagle_hf.decoding.stats import Stopwatch
from eagle_hf.head.configuration import TreeConfig
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.planning.cost import CostTable
from eagle_hf.provenance import dtype_name, machine, weights_fingerprint
from eagle_hf.target import unwrap

BATCHES, LENGTHS = (1, 4, 8), (256, 2048, 8000)
TOKENS, WIDTHS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64), (1, 2, 4, 8, 16)
QUICK_TOKENS, QUICK_WIDTHS = (1, 2, 4, 8, 16), (1, 8)
QUICK_CONTEXT = 64  # tokens
QUICK_SECONDS = 5.0
QUICK_REPEATS = 7
ROUND_SECONDS = 0.003  # of a round outside the forwards, 2.4 to 4 ms were measured on 2 CPU cores


def identity(target, assistant) -> dict:
    """The facts that a cost table holds for, see planning.cost.IDENTITY."""
    is_head = isinstance(assistant, Eagle3DraftHead)
    model = assistant if is_head else getattr(assistant, "model", target)
    facts = {
        "drafter_sha256": weights_fingerprint(assistant) if is_head else assistant.identity,
        "drafter_dtype": dtype_name(model),
    }
    return {"target_sha256": weights_fingerprint(target)} | facts | machine(target)


def measure_costs(
    target,
    assistant,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    tokens: Sequence[int] = TOKENS,
    widths: Sequence[int] = WIDTHS,
    repeats: int = 7,
    progress: Callable[[str], None] = lambda text: None,
) -> CostTable:
    """The costs of a target and its assistant on this machine; lengths in tokens, `repeats` timings of each point.

    ValueError where a length and the tokens read on top leave the target's context.
    """
    check_lengths(target, lengths, tokens)
    read, drafted, overhead = [], [], []
    with given_tree(assistant, TreeConfig()):
        for batch in batches:
            rows = [
                _cell(target, assistant, batch, length, tokens, widths, repeats, progress)
                for length in lengths
            ]
            read.append([row[0] for row in rows])
            drafted.append([row[1] for row in rows])
            overhead.append(_overhead(target, assistant, batch))
    grids = (tuple(grid) for grid in (batches, lengths, tokens, widths))
    return CostTable(
        *grids, tuple(read), tuple(drafted), tuple(overhead), identity(target, assistant)
    )


@torch.no_grad()
def measure_quickly(target, head, batch: int, facts: dict) -> CostTable:
    """What a few tokens cost a target and its head here, in QUICK_SECONDS at most unless a forward takes one itself.

    The caller's random state is left alone.

    The target first reads QUICK_CONTEXT tokens. Where its forwards are slow, only 1 and 8 tokens are timed.
    """
    started = time.perf_counter()
    cache = _short_cache(target, batch)
    widest = target_forward(target, cache, batch, QUICK_CONTEXT, QUICK_TOKENS[-1], reading_tree)
    is_slow = timed(widest, target.device) > QUICK_SECONDS / 20
    tokens = QUICK_TOKENS[::3] if is_slow else QUICK_TOKENS
    drafter = bind(head, target, cache, Stopwatch(), tree=TreeConfig())
    forwards = [
        target_forward(target, cache, batch, QUICK_CONTEXT, count, reading_tree) for count in tokens
    ]
    forwards += [
        draft_forward(drafter, target, batch, QUICK_CONTEXT, width) for width in QUICK_WIDTHS
    ]
    seconds = [[] for _ in forwards]
    turns = 0
    while turns < 2 or (
        turns <= QUICK_REPEATS and time.perf_counter() - started < QUICK_SECONDS / 2
    ):
        for forward, times in zip(forwards, seconds, strict=True):
            times.append(timed(forward, target.device))
        turns += 1
    medians = tuple(statistics.median(times[1:]) for times in seconds)  # the first ones warm up
    target_costs, draft_costs = medians[: len(tokens)], medians[len(tokens) :]
    return CostTable(
        (batch,),
        (QUICK_CONTEXT,),
        tokens,
        QUICK_WIDTHS,
        ((target_costs,),),
        ((draft_costs,),),
        (ROUND_SECONDS,),
        facts,
    )


def _short_cache(target, batch: int) -> TreeCache:
    """The target's cache after it read QUICK_CONTEXT tokens of noise."""
    model, cache = unwrap(target), TreeCache()
    ids = _random_ids(target, batch, QUICK_CONTEXT)
    target(input_ids=ids, **cache_inputs(model, cache), **last_logits(model))
    return cache


def check_lengths(target, lengths: Sequence[int], tokens: Sequence[int] = TOKENS) -> None:
    """Raise a ValueError where `tokens` on top of a length leave the target's context."""
    limit = unwrap(target).config.get_text_config().max_position_embeddings
    if max(lengths) + max(tokens) > limit:
        raise ValueError(
            f"lengths are {list(lengths)} with {max(tokens)} tokens read on top, but the target's context is {limit} tokens; measure shorter ones"
        )


@contextmanager
def given_tree(assistant, tree: TreeConfig):
    """The assistant with another tree: its own may need the very plan that is being made."""
    own, is_automatic = assistant.tree, getattr(assistant, "tree_by_machine", False)
    assistant.tree = tree
    try:
        yield
    finally:
        assistant.tree = own
        if is_automatic:
            assistant.tree_by_machine = True


@torch.no_grad()
def _cell(
    target, assistant, batch, length, tokens, widths, repeats, progress
) -> tuple[list[float], list[float]]:
    """(seconds of the target's forwards, seconds of the drafter's), by `tokens` and `widths`."""
    cache = noise_cache(target, batch, length)
    drafter = bind(assistant, target, cache, Stopwatch())
    settings = [
        target_forward(target, cache, batch, length, count, reading_tree) for count in tokens
    ]
    settings += [draft_forward(drafter, target, batch, length, width) for width in widths]
    seconds = [[] for _ in settings]
    for turn in range(repeats + 1):
        for setting, times in zip(settings, seconds):
            times.append(timed(setting, target.device))
    medians = [statistics.median(times[1:]) for times in seconds]  # the first ones warm up
    progress(
        f"batch {batch}, length {length}: {1000 * medians[0]:.1f} ms a token, {1000 * medians[len(tokens) - 1]:.1f} ms for {tokens[-1]}"
    )
    return medians[: len(tokens)], medians[len(tokens) :]


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call; on a CUDA GPU between two events, its waiting for Python included."""
    if device.type != "cuda":
        started = time.perf_counter()
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - started
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        function()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1000


def noise_cache(target, batch: int, length: int) -> TreeCache:
    """A target's cache as if it had read `length` tokens."""
    config, cache = unwrap(target).config.get_text_config(), TreeCache()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        noise = _noise((batch, heads, length, width), target)
        cache.update(noise, noise, layer)
    return cache


def _generator(device: torch.device) -> torch.Generator:
    """A source of random numbers of its own: measuring happens within calls whose numbers are somebody's."""
    return torch.Generator(device).manual_seed(0)


def _random_ids(target, batch: int, count: int) -> torch.Tensor:
    """Any tokens [batch, count]."""
    vocabulary = unwrap(target).config.get_text_config().vocab_size
    return torch.randint(
        0, vocabulary, (batch, count), generator=_generator(target.device), device=target.device
    )


def _noise(shape: tuple[int, ...], model) -> torch.Tensor:
    """Noise in a model's dtype, where it lies."""
    return torch.randn(
        shape, generator=_generator(model.device), dtype=model.dtype, device=model.device
    )


def target_forward(
    target,
    cache: Cache,
    batch: int,
    length: int,
    count: int,
    reading: Callable[[], AbstractContextManager],
) -> Callable[[], None]:
    """A function that lets the target read `count` tokens a row on top of the cache, inside `reading()`, and forgets them."""
    ids = _random_ids(target, batch, count)
    positions = torch.arange(length, length + count, device=target.device).expand(batch, -1)
    seen = torch.ones(batch, count, length + count, dtype=torch.bool, device=target.device).tril(
        length
    )
    mask = MaskFormat(target)(
        seen, positions, torch.arange(length + count, device=target.device).expand(batch, -1)
    )

    reads = cache_inputs(unwrap(target), cache)

    def run():
        with reading():
            target(input_ids=ids, position_ids=positions, attention_mask=mask, **reads)
        cache.crop(-count)

    return run


def draft_forward(drafter, target, batch: int, length: int, width: int) -> Callable[[], None]:
    """A function that runs `width` nodes a row through a drafter that has read `length` tokens, and proposes their children."""
    config, device = unwrap(target).config.get_text_config(), target.device
    ids = _random_ids(target, batch, width)
    hidden = _noise((batch, width, config.hidden_size), _model(drafter))
    alone = torch.eye(width, dtype=torch.bool, device=device).expand(batch, -1, -1)
    if drafter.slots.lengths is None:
        _fill(drafter, target, batch, length)

    def run():
        outputs = drafter.step(ids, hidden, 0, alone)
        drafter.propose(outputs, min(width, drafter.vocabulary))

    return run


def _fill(drafter, target, batch: int, length: int) -> None:
    """Let a drafter hold noise for `length` tokens."""
    kept = drafter.slots.start(torch.full((batch,), length, device=target.device))
    for index, layer in enumerate(noise_cache(_model(drafter), batch, kept.shape[1]).layers):
        drafter.cache.with_layers(index + 1)[index].keep(
            layer.keys,
            layer.values,
            torch.arange(kept.shape[1], device=kept.device).expand(batch, -1),
        )


def _model(drafter):
    return drafter.head if isinstance(drafter, EagleDrafter) else drafter.model


def _overhead(target, assistant, batch: int) -> float:
    """Seconds of a batch's round outside the forwards, from a short run; statistics count every row's round."""
    ids = torch.randint(
        3, unwrap(target).config.get_text_config().vocab_size, (batch, 32), device=target.device
    )
    inputs = dict(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=16,
        eos_token_id=None,
    )
    target.generate(**inputs, assistant_model=assistant)
    return batch * assistant.last_run.overhead
