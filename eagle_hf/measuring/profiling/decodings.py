"""Decoding that goes round by round: plain, or with a draft head."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.profiler import record_function

from eagle_hf.compat import last_logits
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.compiling import fixed_size
from eagle_hf.decoding.forward import TargetForward
from eagle_hf.decoding.stats import Stopwatch
from eagle_hf.measuring.profiling.chrome_trace import PREFIX
from eagle_hf.measuring.runs import PlainRun, TimedRun
from eagle_hf.target import unwrap


class TracedStopwatch(Stopwatch):
    """A stopwatch whose phases are also blocks in a trace of torch.profiler."""

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Count the block's seconds for this phase, and mark it in the trace."""
        with record_function(PREFIX + name), super().phase(name):
            yield


@dataclass(frozen=True)
class Emitted:
    """What a round did: tokens that it emitted, and forwards of the head."""

    tokens: int
    draft_forwards: int


class Decoding(Protocol):
    """Decoding that has begun behind a prompt."""

    watch: Stopwatch

    def round(self) -> Emitted:
        """Run one round."""
        ...

    def release(self) -> None:
        """Give its buffers back."""
        ...


class PlainDecoding:
    """A token a round, by the target alone.

    Args:
        target: a causal LM.
        input_ids: the prompt [1, S].
        new_tokens: the most that will be decoded.
        keeps_size: whether all tensors keep their sizes, so that the forward is compiled on a GPU.
        watch: where the seconds go.
    """

    @torch.no_grad()
    def __init__(
        self,
        target: Any,
        input_ids: torch.Tensor,
        new_tokens: int,
        keeps_size: bool,
        watch: Stopwatch,
    ):
        self.watch = watch
        limit = input_ids.shape[1] + new_tokens + 1
        cache = TargetCache(capacity=fixed_size(limit)) if keeps_size else TargetCache(limit=limit)
        forward = TargetForward(target, cache)
        logits, _ = forward.read_prompt(input_ids, **last_logits(unwrap(target)))
        token = logits[:, -1].argmax(-1, keepdim=True)
        self._run = PlainRun(target, cache, token, watch)

    def round(self) -> Emitted:
        """Decode one token."""
        self._run.step()
        return Emitted(tokens=1, draft_forwards=0)

    def release(self) -> None:
        """Give its buffers back, of which nobody else makes use."""


class DraftedDecoding:
    """Draft, verify, commit, from the second round on."""

    def __init__(self, run: TimedRun, watch: Stopwatch):
        self.watch = watch
        self._run = run.start(watch)

    @torch.no_grad()
    def round(self) -> Emitted:
        """Run one round."""
        done = self._run.round()
        return Emitted(done.tokens, len(done.widths))

    def release(self) -> None:
        """Give its buffers back."""
        self._run.cache.release()
