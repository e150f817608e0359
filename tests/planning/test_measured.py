"""Policies replayed on what was measured: SmolLM2 and its reference head in bfloat16 on 2 cores, batch 1, 4, 8 by length 256, 2k, 8k.

Made by: eagle-hf plan --target smollm2 --head model_cards/smollm2-135m-instruct-eagle3 --per-category 4 --max-new-tokens 48 --repeats 0
--out tests/planning/smollm2 --trace tests/planning/smollm2/trace.npz.
"""

from itertools import product
from pathlib import Path

import pytest

from eagle_hf import Plan, TreeConfig
from eagle_hf.decoding.trace import Trace
from eagle_hf.evaluation.plans import predict

FOLDER = Path(__file__).parent / "smollm2"


@pytest.fixture(scope="module")
def rates():
    plan, trace = Plan.load(FOLDER), Trace.load(FOLDER / "trace.npz")
    cells = list(product(plan.costs.batches, plan.costs.lengths))
    assert cells == list(product((1, 4, 8), (256, 2048, 8000)))
    return {cell: predict(plan, trace, *cell, TreeConfig(depth=4, top_k=4, nodes=12)) for cell in cells}


def test_adaptive_is_as_fast_as_the_best_fixed_tree_of_every_cell(rates):
    shares = {cell: found["adaptive"] / found["sequoia"] for cell, found in rates.items()}
    assert min(shares.values()) >= 0.98, shares
    assert sum(shares.values()) / len(shares) >= 1.0, shares


def test_adaptive_never_loses_to_plain_decoding(rates):
    gains = {cell: found["adaptive"] / found["plain"] for cell, found in rates.items()}
    assert min(gains.values()) >= 1.0, gains
    assert max(gains.values()) > 1.3, gains
