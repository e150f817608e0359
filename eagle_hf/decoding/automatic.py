"""The tree by machine: what a head drafts where nobody has said it.

How many tokens pay depends on what the target's forwards cost here, and on how often the head's guesses are taken. The
first is measured once, in a few seconds, and kept in the cache folder; the second is saved with the head. From both, a
policy chooses anew every round how much is drafted, plain decoding included (planning/policy.py).

State of this module: the costs measured or read so far, by target; and by head, the policies of calls that drafting lost.
"""

import hashlib
import json
import textwrap
import threading
import time
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from transformers.utils import logging

from eagle_hf.compat import take_cache
from eagle_hf.decoding.loop import speculate
from eagle_hf.decoding.stats import PHASES, DecodingStats
from eagle_hf.decoding.timing import identity, measure_quickly
from eagle_hf.head.configuration import Acceptance, TreeConfig
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.plan import PLAN, Plan
from eagle_hf.planning.policy import AdaptivePlan, Calibration
from eagle_hf.planning.sequoia import best_tree_for
from eagle_hf.provenance import machine
from eagle_hf.target import unwrap
from eagle_hf.target.gguf import cache_folder

logger = logging.get_logger(__name__)

DEPTH, WIDTH = 6, 8  # levels, and nodes run at each, that are drafted at most
NODES = 15  # read at most by quickly measured costs: 16 tokens with the root
PLANNED_NODES = 63  # by a saved plan, whose costs reach that far
BATCH_LIMIT = 64  # rows; larger batches are taken to cost what these do
TYPICAL = Acceptance()  # of a head that does not say how often it is accepted

_lock = threading.Lock()
_known: WeakKeyDictionary = WeakKeyDictionary()  # target -> {setting: CostTable}
_lost: WeakKeyDictionary = (
    WeakKeyDictionary()
)  # head -> {rows: (plan, policy) of the last call, where drafting lost in it}


def decode(target, head, arguments: dict, inputs: dict):
    """What `generate` returns, by the way that is fastest here; where no draft pays, by transformers' own plain decoding.

    Args:
        arguments: of `loop.speculate`.
        inputs: the further ones that generate prepared for the target, its cache among them.
    """
    rows, prompt = arguments["input_ids"].shape
    try:
        plan, nodes = find_plan(target, head, rows)
    except (
        RuntimeError,
        IndexError,
        ValueError,
        TypeError,
    ) as error:  # out of memory, or a model that measuring does not suit
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        logger.warning_once(
            f"this machine could not be measured ({reason}); drafting with the tree saved with the head, {head.tree}"
        )
        _, inputs = take_cache(inputs)
        return speculate(target, head, **arguments, **inputs)
    tree = bounds(target, nodes)
    policy = _policy(head, rows, plan, tree)
    lengths = (prompt, arguments["generation_config"].max_length)
    if not any(policy.pays_for(rows, length) for length in lengths):
        started = time.perf_counter()
        output = target._sample(**arguments, **inputs)
        head.last_run = plain_run(
            output, prompt, arguments["generation_config"], time.perf_counter() - started
        )
        return output
    _, inputs = take_cache(inputs)
    output = speculate(target, head, **arguments, tree=tree, policy=policy, **inputs)
    _remember(head, rows, plan, policy)
    return output


def plain_run(output, prompt: int, generation_config, seconds: float) -> DecodingStats:
    """The statistics of plain decoding: every token but a row's first is a round of its own."""
    sequences = getattr(output, "sequences", output)
    generated = sequences[:, prompt:]
    ends = torch.zeros_like(generated, dtype=torch.bool)
    if generation_config._eos_token_tensor is not None:
        ends = torch.isin(generated, generation_config._eos_token_tensor)
    ended_before = (ends.cumsum(1) - ends.long())[:, 1:] > 0
    tokens = int((~ended_before).sum())
    return DecodingStats(
        len(sequences), tokens, tokens, seconds=dict.fromkeys(PHASES, 0.0) | {"target": seconds}
    )


def find_plan(target, head, rows: int) -> tuple[Plan, int]:
    """The plan for a batch of `rows`, and how many drafts a round its costs reach.

    A plan that was saved for this target and machine decides; without one, quickly measured costs do.
    """
    plan = saved_plan(target, head)
    if plan is not None:
        return plan, PLANNED_NODES
    acceptance = head.acceptance or TYPICAL
    calibration = Calibration(acceptance.slopes, acceptance.offsets)
    return Plan(costs(target, head, rows), acceptance.shares, calibration), NODES


def bounds(target, nodes: int) -> TreeConfig:
    """The largest trees of a call: of so many nodes, fewer where the target's context is short."""
    context = (
        getattr(unwrap(target).config.get_text_config(), "max_position_embeddings", None)
        or nodes + 1
    )
    return TreeConfig("adaptive", depth=DEPTH, top_k=WIDTH, nodes=min(nodes, context - 1))


def _policy(head, rows: int, plan: Plan, tree: TreeConfig) -> AdaptivePlan:
    """The policy of a call; where drafting lost in the last one by the same plan, one that goes on from there."""
    former, policy = _lost.get(head, {}).get(rows, (None, None))
    return policy.copy() if former == plan else plan.policy(tree)


def _remember(head, rows: int, plan: Plan, policy: AdaptivePlan) -> None:
    """Keep the policy of a call that has ended if drafting lost in it, so that the next call need not lose again."""
    others = {count: kept for count, kept in _lost.get(head, {}).items() if count != rows}
    _lost[head] = others | ({rows: (plan, policy)} if policy.has_paused else {})


def saved_plan(target, head) -> Plan | None:
    """The plan set on the head or lying in its folder, if it holds for this target on this machine."""
    plan, folder = head.plan, Path(head.name_or_path or "")
    in_folder = bool(head.name_or_path) and (folder / PLAN).is_file()
    if plan is None and not in_folder:
        return None
    try:
        plan = plan or Plan.load(folder)
        plan.costs.check(identity(target, head))
    except ValueError as error:
        logger.warning_once(f"the head's plan is not used: {error}")
        return None
    return plan


def costs(target, head, rows: int) -> CostTable:
    """What 1 to 16 tokens cost in each of `rows` rows, the next power of two: measured at the first call, kept for others."""
    batch = min(BATCH_LIMIT, 1 << (rows - 1).bit_length())
    model = unwrap(target)
    attention = model.config.get_text_config()._attn_implementation
    weights = sum(1 for _ in model.parameters())  # an adapter adds some
    devices = str(target.device), str(head.device)
    setting = (
        batch,
        target.dtype,
        head.dtype,
        head.config.draft_vocab_size,
        torch.get_num_threads(),
        attention,
        weights,
        devices,
    )
    with _lock:
        tables = _known.setdefault(model, {})
        if setting not in tables:
            facts = description(target, head, batch)
            name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
            tables[setting] = _read(name, facts) or _measure(target, head, batch, name, facts)
        return tables[setting]


def description(target, head, batch: int) -> dict:
    """What a measurement holds for: machine, versions, dtypes, and the shapes and storage of all weights."""
    weights = hashlib.sha256()
    for model in (target, head):
        for part, parameter in model.named_parameters():
            weights.update(
                repr(
                    (part, tuple(parameter.shape), str(parameter.dtype), str(parameter.device))
                ).encode()
            )
    attention = unwrap(target).config.get_text_config()._attn_implementation
    return machine(target) | {
        "batch": batch,
        "weights": weights.hexdigest(),
        "attention": attention,
    }


def measurements() -> Path:
    """The folder in which measured costs are kept."""
    return cache_folder() / "costs"


def _file(name: str) -> Path:
    return measurements() / f"{name[:32]}.json"


def _read(name: str, facts: dict) -> CostTable | None:
    """The costs that an earlier process kept; None where there are none, or not of what `facts` describe."""
    try:
        table = CostTable.load(_file(name))
    except (OSError, ValueError):
        return None
    return table if table.facts == facts else None


def _measure(target, head, batch: int, name: str, facts: dict) -> CostTable:
    """Measure, keep and say so once: it falls into somebody's call of generate."""
    started = time.perf_counter()
    table = measure_quickly(target, head, batch, facts)
    seconds = time.perf_counter() - started
    try:
        _file(name).parent.mkdir(parents=True, exist_ok=True)
        table.save(_file(name))
        kept = f"kept in {_file(name).parent}"
    except OSError as error:
        kept = f"not kept, for {_file(name).parent} cannot be written ({error}): set EAGLE_HF_CACHE"
    logger.warning(
        f"{seconds:.1f} s of this call went into measuring this machine ({kept}): {_told(table)}. {_consequence(table, head)}; "
        'from_pretrained(..., tree="saved") and head.tree = TreeConfig(...) leave this out'
    )
    return table


def _told(table: CostTable) -> str:
    """As "1, 8 tokens cost 40, 49 ms"."""
    tokens = ", ".join(str(count) for count in table.tokens)
    milliseconds = ", ".join(f"{1000 * seconds:.0f}" for seconds in table.target[0][0])
    rows = f" in each of {table.batches[0]} rows" if table.batches[0] > 1 else ""
    return f"{tokens} tokens{rows} cost {milliseconds} ms"


def _consequence(table: CostTable, head) -> str:
    cell, acceptance = table.at(table.batches[0], 0), head.acceptance or TYPICAL
    tree, rate = best_tree_for(
        acceptance.shares, cell.rounds, cell.draft_seconds, table.tokens[-1] - 1, DEPTH
    )
    if not tree.size:
        return "no draft pays, so this is plain decoding"
    return f"about {tree.size} drafts a round pay, {rate * cell.target[0]:.2f}x predicted"
