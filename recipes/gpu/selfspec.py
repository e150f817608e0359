"""Long texts: the target as its own drafter (MagicDec, arXiv 2408.11049), and trees by length.

At 8B's shape, with the acceptance that was measured on SmolLM2-135M behind 8,000 tokens
(docs/experiments/2026-11-25-self-speculation.md) or is saved with the shipped head. It is set by
hand here; what is measured is what it costs.
"""

from functools import partial
from pathlib import Path

import torch
from cells import Cell, Setting
from models import OracleSelf, chance_of
from prompts import NoisePrompt
from speed import SET_BY_HAND, Bench, Place, best, timed_drafts

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.measuring import measure_costs
from eagle_hf.measuring.runs import plain_loop
from eagle_hf.planning.sequoia import best_tree_for

CARD = Path(__file__).parents[2] / "model_cards/smollm2-135m-instruct-eagle3"
TAU_BY_GAMMA = {1: 1.82, 2: 2.49, 3: 3.20}  # SmolLM2, batch 8, 8,000 tokens
WINDOW = 512
# (batch, context) of MagicDec's table, in the order of their worth
PLACES = (
    (8, 32768),
    (16, 32768),
    (32, 32768),
    (8, 16384),
    (16, 16384),
    (32, 16384),
    (8, 8192),
    (16, 8192),
    (32, 8192),
    (8, 4096),
    (16, 4096),
    (32, 4096),
)
GAMMAS = (3, 2, 1)
LENGTHS = (256, 4096, 16384)
MODES = ("captured", "eager")
TOKENS = (1, 2, 4, 8, 16)
WIDTHS = (1, 4, 8)
DEPTH = 6
NODES = 15


def cells(setting: Setting) -> list[Cell]:
    """MagicDec's table, then the trees that pay by length."""
    bench = Bench(setting.device)
    shape = "toy" if setting.rehearse else "8B"
    places = ((2, 64),) if setting.rehearse else PLACES
    found = []
    for batch, context in places:
        place = Place(shape, batch, context, 24 if setting.rehearse else 48, repeats=2)
        where = f"{shape}, batch {batch}, context {context}"
        found.append(Cell(f"{where}: plain loop", partial(plain, bench, place)))
        for gamma in GAMMAS:
            for mode in MODES:
                name = f"{where}: itself, gamma {gamma}, {mode} ({SET_BY_HAND})"
                window = 32 if setting.rehearse else WINDOW
                found.append(Cell(name, partial(itself, bench, place, gamma, mode, window)))
    for batch in (1, 8):
        for length in (32, 64) if setting.rehearse else LENGTHS:
            place = Place(shape, batch, length)
            name = f"{shape}, batch {batch}, context {length}: the tree that pays, predicted"
            found.append(Cell(name, partial(tree_by_length, bench, place)))
    return found


def plain(bench: Bench, place: Place) -> dict:
    """This package's loop without drafts."""
    bench.use(place)
    prompt = NoisePrompt(bench.target, bench.head, place.batch, place.context)
    seconds, tokens = best(plain_loop(prompt, place.new_tokens), place.repeats)
    step = seconds * place.batch / tokens
    return {"tokens_s": tokens / seconds, "ms_step": 1000 * step} | bench.reading(step)


def itself(bench: Bench, place: Place, gamma: int, mode: str, window: int) -> dict:
    """Self-speculation behind a window.

    Raises:
        ValueError: it cannot run here.
    """
    if bench.device.type != "cuda" and mode != "eager":
        raise ValueError("CUDA graphs exist on a CUDA GPU alone")
    bench.use(place)
    tau = TAU_BY_GAMMA[gamma]
    assistant = OracleSelf(bench.target, chance_of(tau, gamma), window, gamma)
    prompt = NoisePrompt(bench.target, assistant, place.batch, place.context)
    tree = TreeConfig("chain", depth=gamma, compile=mode != "eager")
    return timed_drafts(prompt, tree, mode, place) | {"tau_set_by_hand": tau}


@torch.no_grad()
def tree_by_length(bench: Bench, place: Place) -> dict:
    """The tree with most tokens a second by costs measured here; it is not decoded with.

    Acceptance is the shipped head's on SmolLM2. Costs are those of eager forwards.
    """
    bench.use(place)
    acceptance = Eagle3DraftHead.from_pretrained(CARD).acceptance
    assert acceptance is not None, "the shipped head says how often it is accepted"
    table = measure_costs(
        bench.target,
        bench.head,
        batches=(place.batch,),
        lengths=(place.context,),
        tokens=TOKENS,
        widths=WIDTHS,
        repeats=3,
    )
    cost = table.at(place.batch, place.context)
    tree, rate = best_tree_for(acceptance.shares, cost.target, cost.draft_seconds, NODES, DEPTH)
    return {
        "acceptance": "of SmolLM2's head",
        "nodes": len(tree.parents) - 1,
        "depth": max(tree.depths),
        "tokens_s_predicted": place.batch * rate,
        "tokens_s_plain": place.batch / float(cost.target[0]),
        "ms_by_tokens": {count: 1000 * float(cost.target[count - 1]) for count in TOKENS},
    }
