"""Policies replayed on what was measured: SmolLM2 and its reference head.

In bfloat16 on 2 cores, batch 1, 4, 8 by length 256, 2k, 8k. Made by

    eagle-hf plan --target smollm2 --head FOLDER --per-category 8 --max-new-tokens 48 \
        --repeats 0 --trace trace.npz

with a copy of model_cards/smollm2-135m-instruct-eagle3 as FOLDER. Of each node's 32 children the
trace keeps the 8 best: the best fixed trees over all 32 use none beyond the fourth.

A policy learns from half of the answers what drafts are worth. It is judged on the other half,
against the fixed trees that this other half itself would choose.
"""

from itertools import product
from pathlib import Path

import pytest

from eagle_hf import Plan, TreeConfig
from eagle_hf.measuring.acceptance import fit_trace
from eagle_hf.measuring.plans import TREES, predict
from eagle_hf.measuring.replay import replay
from eagle_hf.measuring.traces import Trace

FOLDER = Path(__file__).parent / "smollm2"
CELLS = list(product((1, 4, 8), (256, 2048, 8000)))


@pytest.fixture(
    scope="module", params=[0, 1], ids=["even answers learnt from", "odd answers learnt from"]
)
def rates(request):
    """Tokens per second by cell and policy."""
    costs = Plan.load(FOLDER).costs
    trace = Trace.load(FOLDER / "trace.npz")
    assert list(product(costs.batches, costs.lengths)) == CELLS
    numbers = sorted(set(trace.answers.tolist()))
    learnt_from = trace.of_answers(numbers[request.param :: 2])
    judged_on = trace.of_answers(numbers[1 - request.param :: 2])
    plan = Plan(costs, *fit_trace(learnt_from))
    best = Plan(costs, *fit_trace(judged_on)).policy(TREES["sequoia"])
    tree = TreeConfig(depth=4, top_k=4, nodes=12)
    rates = {}
    for batch, length in CELLS:
        found = dict(predict(plan, judged_on, batch, length, tree))
        found["best"], _ = replay(judged_on, best, costs, batch, length)
        rates[batch, length] = found
    return rates


def test_adaptive_is_as_fast_as_the_best_fixed_tree_of_every_cell(rates):
    shares = {}
    for cell, found in rates.items():
        shares[cell] = found["adaptive"] / max(found["best"], found["sequoia"])
    assert min(shares.values()) >= 0.98, shares
    assert sum(shares.values()) / len(shares) >= 1.0, shares


def test_adaptive_never_loses_to_plain_decoding(rates):
    gains = {cell: found["adaptive"] / found["plain"] for cell, found in rates.items()}
    assert min(gains.values()) >= 1.0, gains
    assert max(gains.values()) > 1.3, gains
