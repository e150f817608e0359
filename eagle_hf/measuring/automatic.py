"""The tree by machine: what a head drafts where nobody has said it.

How many tokens pay depends on what the target's forwards cost here, and on how often the head's
guesses are taken. The first is measured once, in a few seconds, and kept in the cache folder. The
second is saved with the head. From both, a policy chooses anew every round how much is drafted,
plain decoding included (planning/policies.py).

Module state: the costs measured or read so far, by target, and by head the policies of calls in
which drafting lost.
"""

import textwrap
import time
from weakref import WeakKeyDictionary

from transformers.utils import logging

from eagle_hf.compat import AssistedCall, decode_plainly
from eagle_hf.decoding.assistants import EagleAssistant
from eagle_hf.decoding.loop import speculate
from eagle_hf.decoding.stats import PHASES, DecodingStats
from eagle_hf.decoding.stopping import answer_lengths
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.machine_costs import TYPICAL, machine_costs
from eagle_hf.planning.calibration import Calibration
from eagle_hf.planning.plan import Plan
from eagle_hf.planning.policies import AdaptivePolicy
from eagle_hf.target import unwrap

logger = logging.get_logger(__name__)

DEPTH = 6  # levels that are drafted at most
WIDTH = 8  # nodes run at each
NODES = 15  # read at most by quickly measured costs: 16 tokens with the root
PLANNED_NODES = 63  # by a saved plan, whose costs reach that far

# head -> {(rows, adapters): (plan, policy) of the last call, where drafting lost in it}
_lost: WeakKeyDictionary = WeakKeyDictionary()


def decode(target, assistant: EagleAssistant, call: AssistedCall):
    """What `generate` returns, in the way that is fastest here.

    Where no draft pays, that is transformers' own plain decoding.
    """
    head = assistant.head
    rows, prompt = call.input_ids.shape
    try:
        plan, nodes = find_plan(target, assistant, rows)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        # out of memory, or a model that measuring does not suit
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        logger.warning_once(
            f"this machine could not be measured ({reason}); drafting with the tree saved with "
            f"the head, {head.tree}"
        )
        return speculate(target, assistant, call)
    tree = bounds(target, nodes)
    calls = (rows, assistant.adapters)
    policy = _policy(head, calls, plan, tree)
    lengths = (prompt, call.generation_config.max_length)
    if not any(policy.pays_for(rows, length) for length in lengths):
        started = time.perf_counter()
        output = decode_plainly(target, call)
        seconds = time.perf_counter() - started
        assistant.owner.last_run = plain_run(output, prompt, call.generation_config, seconds)
        return output
    output = speculate(target, assistant, call, tree, policy)
    _remember(head, calls, plan, policy)
    return output


def plain_run(output, prompt: int, generation_config, seconds: float) -> DecodingStats:
    """The statistics of plain decoding: every token but a row's first is a round of its own.

    Args:
        output: of generate.
        prompt: tokens of the prompts, padding included.
        generation_config: of the call.
        seconds: that it took.
    """
    sequences = getattr(output, "sequences", output)
    lengths = answer_lengths(sequences[:, prompt:], generation_config)
    tokens = int((lengths - 1).clamp(min=0).sum())
    phases = dict.fromkeys(PHASES, 0.0) | {"target": seconds}
    return DecodingStats(rows=len(sequences), rounds=tokens, tokens=tokens, seconds=phases)


def find_plan(target, assistant: EagleAssistant, rows: int) -> tuple[Plan, int]:
    """The plan for a batch of `rows`, and how many drafts a round its costs reach.

    A plan that was saved for this target and machine decides. Without one, quickly measured costs
    do.
    """
    plan = saved_plan(target, assistant)
    if plan is not None:
        return plan, PLANNED_NODES
    acceptance = assistant.head.acceptance or TYPICAL
    calibration = Calibration(acceptance.slopes, acceptance.offsets)
    costs = machine_costs(target, assistant.measured_head, rows)
    return Plan(costs, acceptance.shares, calibration), NODES


def saved_plan(target, assistant: EagleAssistant) -> Plan | None:
    """The plan set on the head or saved in its folder, if it holds for this target here."""
    try:
        plan = assistant.find_plan()
        if plan is not None:
            plan.costs.check(assistant.fingerprint(target))
    except ValueError as error:
        logger.warning_once(f"the head's plan is not used: {error}")
        return None
    return plan


def bounds(target, nodes: int) -> TreeConfig:
    """The largest trees of a call: of so many nodes, fewer where the context is short."""
    config = unwrap(target).config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or nodes + 1
    return TreeConfig("adaptive", depth=DEPTH, top_k=WIDTH, nodes=min(nodes, context - 1))


def _policy(head, calls: tuple, plan: Plan, tree: TreeConfig) -> AdaptivePolicy:
    """The policy of a call; one that goes on where drafting lost in the last by the same plan.

    calls: of which rows and adapters.
    """
    former, policy = _lost.get(head, {}).get(calls, (None, None))
    if policy is not None and former == plan:
        return policy.copy()
    return plan.adaptive_policy(tree)


def _remember(head, calls: tuple, plan: Plan, policy: AdaptivePolicy) -> None:
    """Keep the policy of a call in which drafting lost, so that the next need not lose again."""
    kept = dict(_lost.get(head, {}))
    kept.pop(calls, None)
    if policy.has_paused:
        kept[calls] = (plan, policy)
    _lost[head] = kept
