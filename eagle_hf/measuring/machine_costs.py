"""What a target and its head cost on this machine: measured once, kept in the cache folder.

Module state: the tables measured or read so far, by target.
"""

import hashlib
import json
import threading
import time
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from transformers.utils import logging

from eagle_hf.compat import attention_implementation
from eagle_hf.decoding.compiling import is_compiled
from eagle_hf.head.acceptance import Acceptance
from eagle_hf.measuring.costs import measure_quickly
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.sequoia import best_tree_for
from eagle_hf.provenance import machine
from eagle_hf.target import execution_device, unwrap
from eagle_hf.target.gguf import cache_folder
from eagle_hf.target.quantised import plain_parameters, quantised_linears, storage_layout

logger = logging.get_logger(__name__)

BATCH_LIMIT = 64  # rows; larger batches are taken to cost what these do
TYPICAL = Acceptance()  # of a head that does not say how often it is accepted
TOLD_DEPTH = 6  # levels of the tree that the notice speaks of

_lock = threading.Lock()
_known: WeakKeyDictionary = WeakKeyDictionary()  # target -> {setting: CostTable}


def machine_costs(target, head, rows: int = 1) -> CostTable:
    """What 1 to 16 tokens cost in each of `rows` rows, or of the next power of two.

    Measured at the first call, and kept for other processes.

    Args:
        target: the model that verifies.
        head: the draft head.
        rows: of the batch.
    """
    batch = min(BATCH_LIMIT, 1 << (rows - 1).bit_length())
    model = unwrap(target)
    setting = (
        batch,
        target.dtype,
        head.dtype,
        head.config.draft_vocab_size,
        torch.get_num_threads(),
        attention_implementation(model.config.get_text_config()),
        sum(1 for _ in model.parameters()),  # an adapter adds some
        str(execution_device(target)),
        str(head.device),
        sum(parameter.numel() for parameter in head.parameters()),  # adapters of its own
        is_compiled(target),
    )
    with _lock:
        tables = _known.setdefault(model, {})
        if setting not in tables:
            facts = description(target, head, batch)
            table = _saved(facts)
            if table is None:
                table = _measure(target, head, batch, facts)
            tables[setting] = table
        return tables[setting]


def description(target, head, batch: int) -> dict:
    """What a measurement holds for: machine, versions, dtypes, and the storage of all weights."""
    weights = hashlib.sha256()
    for model in (target, head):
        for name, parameter in plain_parameters(model):
            storage = (name, tuple(parameter.shape), str(parameter.dtype), str(parameter.device))
            weights.update(repr(storage).encode())
        for name, module in quantised_linears(model):
            weights.update(repr((name, storage_layout(module))).encode())
    attention = attention_implementation(unwrap(target).config.get_text_config())
    own = {
        "batch": batch,
        "weights": weights.hexdigest(),
        "attention": attention,
        "compiled": is_compiled(target),
    }
    return machine(target) | own


def measurements() -> Path:
    """The folder in which measured costs are kept."""
    return cache_folder() / "costs"


def _file(facts: dict) -> Path:
    """Where the costs of what `facts` describe are kept."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return measurements() / f"{digest[:32]}.json"


def _saved(facts: dict) -> CostTable | None:
    """The costs that an earlier process kept; None where there are none of these facts."""
    try:
        table = CostTable.load(_file(facts))
    except (OSError, ValueError):
        return None
    return table if table.facts == facts else None


def _measure(target, head, batch: int, facts: dict) -> CostTable:
    """Measure, keep, and say so once: it takes seconds of somebody's call of generate."""
    started = time.perf_counter()
    table = measure_quickly(target, head, batch, facts)
    seconds = time.perf_counter() - started
    folder = measurements()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.save(_file(facts))
        kept = f"kept in {folder}"
    except OSError as error:
        kept = f"not kept, for {folder} cannot be written ({error}): set EAGLE_HF_CACHE"
    logger.warning(
        f"{seconds:.1f} s of this call went into measuring this machine ({kept}): "
        f"{_costs_text(table)}. {_consequence(table, head.acceptance or TYPICAL)}; "
        'from_pretrained(..., tree="saved") and head.tree = TreeConfig(...) leave this out'
    )
    return table


def _costs_text(table: CostTable) -> str:
    """As "1, 8 tokens cost 40, 49 ms"."""
    tokens = ", ".join(str(count) for count in table.tokens)
    milliseconds = ", ".join(f"{1000 * seconds:.0f}" for seconds in table.target[0][0])
    rows = f" in each of {table.batches[0]} rows" if table.batches[0] > 1 else ""
    return f"{tokens} tokens{rows} cost {milliseconds} ms"


def _consequence(table: CostTable, acceptance: Acceptance) -> str:
    """What the costs mean for a head with this acceptance."""
    cell = table.at(table.batches[0], 0)
    most = table.tokens[-1] - 1
    tree, rate = best_tree_for(acceptance.shares, cell.rounds, cell.draft_seconds, most, TOLD_DEPTH)
    if not tree.size:
        return "no draft pays, so this is plain decoding"
    speed = rate * cell.target[0]
    return f"about {tree.size} drafts a round pay, {speed:.2f}x predicted"
