"""What answers a policy's `generate` while it trains: drafted or plain, timed, and remembered."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers.utils import logging

from eagle_hf.compat import AssistedCall, decode_plainly
from eagle_hf.decoding.assistants import EagleAssistant
from eagle_hf.decoding.checks import check_call
from eagle_hf.decoding.dispatch import decode_assisted
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.decoding.stopping import answer_lengths
from eagle_hf.measuring import automatic
from eagle_hf.rollouts.answers import generated
from eagle_hf.rollouts.gathering import gathered, is_whole
from eagle_hf.rollouts.pace import Pace

logger = logging.get_logger(__name__)


class RolloutDrafter:
    """Answers a model's plain generate, by drafts where they pay.

    Whatever goes wrong while drafting is said, and the call is answered plainly, from the state
    that the generators of random numbers had before it.

    Args:
        assistant: the head.
        pace: when drafts are made.
        same_seed: rows of a batch advance together, so that plain generate's own draws are made.
        report: called after each call with (call, output, statistics or None, seconds).
    """

    def __init__(
        self,
        assistant: EagleAssistant,
        pace: Pace,
        same_seed: bool,
        report: Callable[[AssistedCall, Any, DecodingStats | None, float], None],
    ):
        self.assistant = assistant
        self.pace = pace
        self.same_seed = same_seed
        self.report = report
        self._is_inside = False  # a call of ours, which may ask transformers to decode plainly

    def __call__(self, policy: Any, call: AssistedCall) -> Any | None:
        """What generate returns; None leaves the call to transformers."""
        if self._is_inside:
            return None
        if call.is_synced and not is_whole(policy):
            logger.warning_once(
                "the policy is sharded over processes, which run each layer together: these "
                "rollouts are not drafted. Gather it for generation "
                "(ds3_gather_for_generation=True), or use DDP or FSDP2"
            )
            return None
        self._is_inside = True
        try:
            with gathered(policy):
                return self._answer(policy, call)
        finally:
            self._is_inside = False

    def _answer(self, policy: Any, call: AssistedCall) -> Any:
        """The output of a call, drafted where that pays and can be done."""
        wants_drafts = self.pace.drafts
        started = _now(policy)
        output = self._drafted(policy, call) if wants_drafts else None
        has_failed = wants_drafts and output is None
        stats = None
        if output is None:
            output = decode_plainly(policy, call)
        elif self.assistant.head.last_run.drafted:
            stats = self.assistant.head.last_run
        seconds = _now(policy) - started
        if not has_failed:  # its seconds are those of two tries
            longest = int(answer_lengths(generated(output, call), call.generation_config).max())
            self.pace.add(stats is not None, seconds, longest)
        self.report(call, output, stats, seconds)
        return output

    def _drafted(self, policy: Any, call: AssistedCall) -> Any | None:
        """The output by drafts; None where that cannot be done."""
        states = _random_states(policy.device)
        try:
            check_call(policy, self.assistant, call.generation_config, {})
            if self.same_seed:
                call = replace(call, in_lockstep=True)
            return decode_assisted(automatic.decode, policy, self.assistant, call)
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            logger.warning_once(
                f"these rollouts are generated without the head ({type(error).__name__}: {error})"
            )
            _restore(policy.device, states)
            return None


def _now(policy: Any) -> float:
    """This moment in seconds, when all that was begun on the policy's device is done."""
    if policy.device.type == "cuda":
        torch.cuda.synchronize(policy.device)
    return time.perf_counter()


def _random_states(device: torch.device) -> list[torch.Tensor]:
    """The states of the generators that sampling draws from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _restore(device: torch.device, states: list[torch.Tensor]) -> None:
    """Put the generators back into these states."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
