"""Rounds behind one prompt: first timed, then under torch.profiler.

The profiler slows Python and small operators down, so the time of a round and of its phases comes
from rounds without it. The same rounds are then run again for the operators.
"""

import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from eagle_hf.decoding.assistants import require_assistant
from eagle_hf.decoding.checks import check_rope, check_target
from eagle_hf.decoding.stats import PHASES, Stopwatch
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.profiling.chrome_trace import ROUND, TracedRounds, read_trace
from eagle_hf.measuring.profiling.decodings import (
    Decoding,
    DraftedDecoding,
    Emitted,
    PlainDecoding,
    TracedStopwatch,
)
from eagle_hf.measuring.profiling.reading import ReadingLimit, reading_limit
from eagle_hf.measuring.runs import PrefilledPrompt, TimedRun
from eagle_hf.measuring.timing import timed
from eagle_hf.provenance import machine
from eagle_hf.target import context_length, execution_device, unwrap

WARM_ROUNDS = 3  # not counted: a compiler, the machine's caches
TRACED_ROUNDS = 5
ROUND_PHASES = tuple(phase for phase in PHASES if phase != "prefill")


@dataclass(frozen=True)
class TimedRounds:
    """Rounds without the profiler.

    Attributes:
        seconds: of each round.
        phases: by phase, seconds of each round.
        tokens: mean tokens a round.
        draft_forwards: mean forwards of the head a round.
    """

    seconds: list[float]
    phases: dict[str, list[float]]
    tokens: float
    draft_forwards: float

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)

    @property
    def phase_medians(self) -> dict[str, float]:
        """Median seconds by phase, of phases that took any."""
        medians = {}
        for phase, seconds in self.phases.items():
            if any(seconds):
                medians[phase] = statistics.median(seconds)
        return medians


@dataclass(frozen=True)
class RoundProfile:
    """Where the time of a round goes.

    Attributes:
        machine: where it was measured, see `provenance.machine`.
        prompt_tokens: of the prompt.
        tree: what was drafted; None for plain decoding.
        timed: rounds without the profiler.
        limit: what reading the weights takes.
        traced: rounds under the profiler.
    """

    machine: dict[str, Any]
    prompt_tokens: int
    tree: str | None
    timed: TimedRounds
    limit: ReadingLimit
    traced: TracedRounds

    @property
    def over_limit(self) -> float:
        """A round's time as a multiple of what reading its weights takes."""
        return self.timed.median / self.limit.seconds

    @property
    def slowdown(self) -> float:
        """A round's time under the profiler as a multiple of its time without."""
        return statistics.median(self.traced.seconds) / self.timed.median


def profile_rounds(
    target: Any,
    head: Eagle3DraftHead | None,
    input_ids: torch.Tensor,
    *,
    tree: TreeConfig | None = None,
    rounds: int = 20,
    keeps_size: bool = False,
    trace: Path | None = None,
) -> RoundProfile:
    """Find out where the time of a round goes.

    Args:
        target: the model that verifies.
        head: who drafts; None for plain decoding.
        input_ids: the prompt [1, S], on the target's device.
        tree: what is drafted; default: the head's own tree.
        rounds: that are timed.
        keeps_size: decode as `TreeConfig(compile=True)` does.
        trace: where the trace of the profiled rounds is kept, as JSON; None: nowhere.

    Returns:
        The profile.

    Raises:
        ValueError: there are no rounds to time, the text would leave the target's context, or this
            head or tree cannot draft for it.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; time at least one")
    if head is None and tree is not None:
        raise ValueError(f"the tree {tree} was given without a head that could draft it")
    if head is not None:
        tree = tree or head.tree
        tree = replace(tree, compile=keeps_size or tree.compile)
        check_target(target, head, tree)
    depth = 0 if tree is None else tree.depth
    # a round emits so many tokens at most, and must have room for a whole tree
    new_tokens = (WARM_ROUNDS + max(rounds, TRACED_ROUNDS) + 2) * (depth + 1)
    _check_room(target, input_ids.shape[1], new_tokens)
    start = _starter(target, head, input_ids, tree, new_tokens, keeps_size)
    device = execution_device(target)

    watched = time_rounds(start(Stopwatch(device)), rounds, device)
    limit = reading_limit(target, head, watched.draft_forwards, device)
    lm_heads = [unwrap(target).config.get_text_config().vocab_size]
    if head is not None:
        lm_heads.append(len(head.draft_to_target))
    return RoundProfile(
        machine=machine(target),
        prompt_tokens=input_ids.shape[1],
        tree=None if tree is None else str(tree),
        timed=watched,
        limit=limit,
        traced=trace_rounds(start(TracedStopwatch(device)), lm_heads, device, trace),
    )


def time_rounds(decoding: Decoding, count: int, device: torch.device) -> TimedRounds:
    """Time some rounds after a few that warm up.

    Args:
        decoding: that has begun.
        count: rounds that are timed.
        device: where it computes.

    Returns:
        Their seconds.
    """
    seconds = []
    phases: dict[str, list[float]] = {phase: [] for phase in ROUND_PHASES}
    emitted: list[Emitted] = []
    for number in range(WARM_ROUNDS + count):
        before = decoding.watch.spans
        took = timed(lambda: emitted.append(decoding.round()), device)
        if number < WARM_ROUNDS:
            continue
        seconds.append(took)
        by_phase = decoding.watch.seconds_since(before)
        for phase in ROUND_PHASES:
            phases[phase].append(by_phase[phase])
    decoding.release()
    counted = emitted[WARM_ROUNDS:]
    return TimedRounds(
        seconds=seconds,
        phases=phases,
        tokens=sum(done.tokens for done in counted) / count,
        draft_forwards=sum(done.draft_forwards for done in counted) / count,
    )


def trace_rounds(
    decoding: Decoding, lm_heads: list[int], device: torch.device, path: Path | None
) -> TracedRounds:
    """Run TRACED_ROUNDS rounds under torch.profiler, after a few that warm up.

    Args:
        decoding: that has begun.
        lm_heads: the sizes of vocabularies.
        device: where it computes.
        path: where the trace is kept; None: nowhere.

    Returns:
        The rounds.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    for _ in range(WARM_ROUNDS):
        decoding.round()
    with profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(TRACED_ROUNDS):
            with record_function(ROUND):
                decoding.round()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
    decoding.release()
    with TemporaryDirectory() as folder:
        written = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(written))
        rounds = read_trace(written, lm_heads)
        if path is not None:
            shutil.copyfile(written, path)
    return rounds


def _starter(
    target: Any,
    head: Eagle3DraftHead | None,
    input_ids: torch.Tensor,
    tree: TreeConfig | None,
    new_tokens: int,
    keeps_size: bool,
) -> Callable[[Stopwatch], Decoding]:
    """A function that begins to decode behind the prompt, again and again in the same way."""
    if head is None:

        def start_plain(watch: Stopwatch) -> Decoding:
            return PlainDecoding(target, input_ids, new_tokens, keeps_size, watch)

        return start_plain
    prompt = PrefilledPrompt(target, require_assistant(head), input_ids)
    run = TimedRun(prompt, tree, new_tokens)

    def start_drafted(watch: Stopwatch) -> Decoding:
        return DraftedDecoding(run, watch)

    return start_drafted


def _check_room(target: Any, length: int, new_tokens: int) -> None:
    """Refuse a prompt and rounds that leave the target's context."""
    limit = context_length(target)
    if limit and length + new_tokens > limit:
        raise ValueError(
            f"the prompt has {length} tokens and the rounds may add {new_tokens}, but the target's "
            f"context is {limit} tokens; give a prompt of at most {max(limit - new_tokens, 0)} "
            "tokens, fewer rounds or a shallower tree"
        )
    check_rope(target, length + new_tokens)
