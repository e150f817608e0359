"""What forwards cost here: where a `CostTable` comes from.

All settings of a cell take turns, and medians are kept.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from eagle_hf.decoding.assistants import Assistant, DraftContext, require_assistant
from eagle_hf.decoding.compiling import compiles_any_size
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.timing import (
    Turns,
    draft_forward,
    noise_cache,
    read_cache,
    target_forward,
    timed,
)
from eagle_hf.planning.cost import CostTable
from eagle_hf.target import context_length, execution_device, unwrap

# The grids of a whole measurement: rows, tokens in the cache, tokens read, nodes drafted.
BATCHES = (1, 4, 8)
LENGTHS = (256, 2048, 8000)
TOKENS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
WIDTHS = (1, 2, 4, 8, 16)
# Those of a quick one.
QUICK_TOKENS = (1, 2, 4, 8, 16)
QUICK_WIDTHS = (1, 8)
QUICK_CONTEXT = 64  # tokens
QUICK_SECONDS = 5.0
QUICK_REPEATS = 7
ROUND_SECONDS = 0.003  # of a round outside the forwards: 2.4 to 4 ms on 2 CPU cores
OVERHEAD_PROMPT = 32  # tokens
OVERHEAD_TOKENS = 16  # decoded to measure a round outside the forwards
FIRST_WORD = 3  # token ids below are special in most vocabularies
# Bounds of the drafters that are measured; any tree costs the same a forward.
TREE = TreeConfig()


def fingerprint(target, assistant) -> dict:
    """The facts that a cost table of these two holds for here.

    Args:
        target: the model that verifies.
        assistant: a draft head, a WindowedDraft or a SelfSpeculation.

    Returns:
        What `CostTable.check` compares: fingerprints of the weights, dtypes, device, threads.
    """
    return require_assistant(assistant).fingerprint(target)


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def measure_costs(
    target,
    assistant,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    tokens: Sequence[int] = TOKENS,
    widths: Sequence[int] = WIDTHS,
    repeats: int = 7,
    progress: Callable[[str], None] = quiet,
) -> CostTable:
    """The costs of a target and its assistant on this machine.

    Args:
        target: the model that verifies.
        assistant: a draft head, a WindowedDraft or a SelfSpeculation.
        batches: rows.
        lengths: tokens in the cache.
        tokens: tokens read by a target's forward, a row.
        widths: nodes drafted by a drafter's forward, a row.
        repeats: timings of each point.
        progress: is told a line per cell.

    Returns:
        Seconds by batch, length, and tokens or nodes.

    Raises:
        ValueError: where a length and the tokens read on top leave the target's context.
    """
    check_lengths(target, lengths, tokens)
    assistant = require_assistant(assistant)
    target_seconds = []
    draft_seconds = []
    overhead = []
    for batch in batches:
        of_target = []
        of_drafter = []
        for length in lengths:
            read, drafted = _cell(target, assistant, batch, length, tokens, widths, repeats)
            of_target.append(read)
            of_drafter.append(drafted)
            progress(
                f"batch {batch}, length {length}: {1000 * read[0]:.1f} ms a token, "
                f"{1000 * read[-1]:.1f} ms for {tokens[-1]}"
            )
        target_seconds.append(of_target)
        draft_seconds.append(of_drafter)
        overhead.append(_overhead(target, assistant, batch))
    return CostTable(
        batches=tuple(batches),
        lengths=tuple(lengths),
        tokens=tuple(tokens),
        widths=tuple(widths),
        target=tuple(target_seconds),
        draft=tuple(draft_seconds),
        overhead=tuple(overhead),
        facts=assistant.fingerprint(target),
    )


@torch.no_grad()
def measure_quickly(target, assistant, batch: int, facts: dict) -> CostTable:
    """What a few tokens cost a target and its assistant here.

    It takes QUICK_SECONDS at most, unless a forward takes one second by itself. The target first
    reads QUICK_CONTEXT tokens. Where its forwards are slow, only 1 and 8 tokens are timed. The
    caller's random state is left alone.

    Args:
        target: the model that verifies.
        assistant: who drafts.
        batch: rows.
        facts: what the table is said to hold for.
    """
    started = time.perf_counter()
    cache = read_cache(target, batch, QUICK_CONTEXT)
    tree = measured_tree(target, assistant)
    widest = target_forward(
        target, cache, batch, QUICK_CONTEXT, QUICK_TOKENS[-1], compile=tree.compile
    )
    is_slow = timed(widest, execution_device(target)) > QUICK_SECONDS / 20
    tokens = (QUICK_TOKENS[0], QUICK_TOKENS[3]) if is_slow else QUICK_TOKENS

    drafter = require_assistant(assistant).drafter(DraftContext.without_run(target, cache, tree))
    forwards = []
    for count in tokens:
        forwards.append(
            target_forward(target, cache, batch, QUICK_CONTEXT, count, compile=tree.compile)
        )
    for width in QUICK_WIDTHS:
        forwards.append(draft_forward(drafter, target, batch, QUICK_CONTEXT, width))
    turns = Turns(forwards, execution_device(target))
    turns.take()
    turns.take()
    for _ in range(QUICK_REPEATS - 1):
        if time.perf_counter() - started >= QUICK_SECONDS / 2:
            break
        turns.take()
    medians = tuple(turns.medians())
    return CostTable(
        batches=(batch,),
        lengths=(QUICK_CONTEXT,),
        tokens=tokens,
        widths=QUICK_WIDTHS,
        target=((medians[: len(tokens)],),),
        draft=((medians[len(tokens) :],),),
        overhead=(ROUND_SECONDS,),
        facts=facts,
    )


def measured_tree(target, assistant) -> TreeConfig:
    """The tree with which forwards are measured, compiled where the assistant's would be."""
    tree = require_assistant(assistant).tree
    return replace(TREE, compile=compiles_any_size(tree, target))


def check_lengths(target, lengths: Sequence[int], tokens: Sequence[int] = TOKENS) -> None:
    """Raise a ValueError where `tokens` on top of a length leave the target's context."""
    limit = context_length(target)
    if limit and max(lengths) + max(tokens) > limit:
        raise ValueError(
            f"lengths are {list(lengths)} with {max(tokens)} tokens read on top, but the target's "
            f"context is {limit} tokens; measure shorter ones"
        )


@torch.no_grad()
def _cell(
    target,
    assistant: Assistant,
    batch: int,
    length: int,
    tokens: Sequence[int],
    widths: Sequence[int],
    repeats: int,
) -> tuple[list[float], list[float]]:
    """Seconds of the target's forwards by `tokens`, and of the drafter's by `widths`."""
    cache = noise_cache(target, batch, length)
    tree = measured_tree(target, assistant)
    drafter = assistant.drafter(DraftContext.without_run(target, cache, tree))
    forwards = []
    for count in tokens:
        forwards.append(target_forward(target, cache, batch, length, count, compile=tree.compile))
    forwards += [draft_forward(drafter, target, batch, length, width) for width in widths]
    turns = Turns(forwards, execution_device(target))
    for _ in range(repeats + 1):
        turns.take()
    medians = turns.medians()
    return medians[: len(tokens)], medians[len(tokens) :]


def _overhead(target, assistant: Assistant, batch: int) -> float:
    """Seconds of a batch's round outside the forwards, from a short call of generate.

    Its statistics count every row's round.
    """
    vocabulary = unwrap(target).config.get_text_config().vocab_size
    shape = (batch, OVERHEAD_PROMPT)
    ids = torch.randint(FIRST_WORD, vocabulary, shape, device=execution_device(target))
    drafting = assistant.with_tree(measured_tree(target, assistant))
    target.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        assistant_model=drafting,
        max_new_tokens=OVERHEAD_TOKENS,
        do_sample=False,
        eos_token_id=None,
    )
    return batch * drafting.owner.last_run.overhead
