"""Making a plan: real answers for the acceptance, timed forwards for the costs, and what follows from both."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy
import torch
from transformers.utils import logging

from eagle_hf.data.sampling import evaluating
from eagle_hf.data.suites import first_turn_ids, load_suite, long_prompts
from eagle_hf.decoding.timing import BATCHES, LENGTHS, measure_costs
from eagle_hf.decoding.windowed import SelfSpeculation, WindowedDraft
from eagle_hf.head.configuration import Acceptance, TreeConfig
from eagle_hf.measuring.clock import HEADER, Speed, measure_cell
from eagle_hf.measuring.traces import Trace, record, replay
from eagle_hf.planning.plan import Plan
from eagle_hf.planning.policy import Calibration, FixedPlan, PlainPlan, fit_calibration
from eagle_hf.planning.sequoia import acceptance_vector, best_tree_for, draw
from eagle_hf.target import unwrap
from eagle_hf.training.acceptance import held_out_prompts

logger = logging.get_logger(__name__)

DEPTH, WIDTH, NODES, CHILDREN = (
    6,
    8,
    63,
    32,
)  # levels, nodes run at each, nodes read, children offered of every node that is run
TREES = {
    policy: TreeConfig(policy, depth=DEPTH, top_k=WIDTH, nodes=NODES)
    for policy in ("sequoia", "adaptive")
}  # those a plan is for
KEPT_RANKS = 8  # guesses of every node whose acceptance is saved with a head
ENOUGH = 30  # trials below which a depth is taken to be like the one above it


def questions(
    tokenizer, assistant, categories: Sequence[str], per_category: int, length: int
) -> list[torch.Tensor]:
    """Ids [1, S] of what acceptance is measured on: first turns, `per_category` of each category.

    For a model behind a window, as many texts of `length` tokens made of them: in short ones it would see all there is.
    """
    if isinstance(assistant, (SelfSpeculation, WindowedDraft)) and assistant.window is not None:
        return list(
            long_prompts(tokenizer, length, per_category * len(categories), categories).split(1)
        )
    return [
        first_turn_ids(tokenizer, prompt)["input_ids"]
        for prompt in load_suite(categories, per_category)
    ]


def record_answers(
    target,
    tokenizer,
    assistant,
    starts: list[torch.Tensor],
    max_new_tokens: int,
    seed: int = 0,
    **sampling,
) -> Trace:
    """What an assistant proposes everywhere along the target's own answers to prompts [1, S]; `sampling` goes to generate (default greedy)."""
    starts = [start.to(target.device) for start in starts]
    settings = (
        dict(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id)
        | sampling
    )
    torch.manual_seed(seed)
    return record(
        target, assistant, starts, _answers(target, starts, settings), DEPTH, WIDTH, CHILDREN
    )


def _answers(target, starts: list[torch.Tensor], settings: dict) -> list[torch.Tensor]:
    """The target's own answers [n] to prompts [1, S]; settings: of generate."""
    answers = []
    for start in starts:
        start = start.to(target.device)
        output = target.generate(start, attention_mask=torch.ones_like(start), **settings)
        answers.append(output[0, start.shape[1] :])
    return answers


def learnt(trace: Trace) -> tuple[tuple[tuple[float, ...], ...], Calibration]:
    """(acceptance [D][W] by depth and rank, calibration of confidences), from what was proposed along real answers."""
    trials, accepted = trace.counts(DEPTH)
    known = max(1, int((trials >= ENOUGH).sum()))
    shares = acceptance_vector((trials[:known], accepted[:known]))
    return tuple(map(tuple, shares.tolist())), fit_calibration(trace.logs(WIDTH), depths=known)


def measure_acceptance(
    target, head, starts: list[torch.Tensor], max_new_tokens: int = 48
) -> Acceptance | None:
    """How often a head's guesses are taken along the target's own greedy answers to prompts [1, S]; None where no answer has two tokens.

    Use prompts that the head was not trained on: trees are chosen by what is measured here.
    """
    tokens = target.generation_config.eos_token_id or target.config.get_text_config().eos_token_id
    padding = target.generation_config.pad_token_id
    if padding is None:
        padding = tokens[0] if isinstance(tokens, list) else tokens
    answers = _answers(
        target, starts, dict(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=padding)
    )
    if max(map(len, answers), default=0) < 2:
        return None
    with evaluating(head):
        trace = record(
            target,
            head,
            [start.to(target.device) for start in starts],
            answers,
            DEPTH,
            WIDTH,
            KEPT_RANKS,
        )
    shares, calibration = learnt(trace)
    kept = [
        [math.floor(1e4 * share) / 1e4 for share in row] for row in shares
    ]  # rounded up, they could add up to more than 1
    slopes, offsets = (
        [round(value, 4) for value in part] for part in (calibration.slopes, calibration.offsets)
    )
    return Acceptance(shares=kept, slopes=slopes, offsets=offsets)


def save_acceptance(folder: str | Path, acceptance: Acceptance | None) -> None:
    """Write it into the config.json of a saved head; None changes nothing."""
    if acceptance is None:
        return
    path = Path(folder, "config.json")
    config = json.loads(path.read_text())
    config["eagle_hf"] = config.get("eagle_hf", {}) | {"acceptance": asdict(acceptance)}
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(config, indent=2) + "\n")
    scratch.rename(path)


def held_out_acceptance(trainer) -> Acceptance | None:
    """What `measure_acceptance` finds on the prompts of a trainer's evaluation set; None where there are none to measure on."""
    if trainer.eval_dataset is None or not trainer.args.eval_prompts or trainer.args.shard_target:
        return None
    try:
        prompts = held_out_prompts(trainer.eval_dataset, trainer.args.eval_prompts)
    except ValueError as error:
        logger.warning(f"how often the head is accepted was not measured: {error}")
        return None
    head = unwrap(trainer.accelerator.unwrap_model(trainer.model))
    return measure_acceptance(trainer.target, head, [torch.tensor([prompt]) for prompt in prompts])


def make_plan(
    target,
    assistant,
    trace: Trace,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    repeats: int = 7,
    progress: Callable[[str], None] = lambda text: None,
) -> Plan:
    """A plan from a trace of this assistant on this target, and from costs measured here and now: let nothing else run."""
    shares, calibration = learnt(trace)
    costs = measure_costs(
        target, assistant, batches=batches, lengths=lengths, repeats=repeats, progress=progress
    )
    return Plan(costs, shares, calibration)


def measure_plan(
    target,
    tokenizer,
    assistant,
    plan: Plan,
    new_tokens: int = 64,
    repeats: int = 3,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Speed]:
    """How fast the plan's policies decode in each of its cells, beside what it promises."""
    rows, assistant.plan = [], plan
    progress(HEADER)
    for batch, length in itertools.product(plan.costs.batches, plan.costs.lengths):
        ids = long_prompts(tokenizer, length, batch).to(target.device)
        for row in measure_cell(target, assistant, TREES, ids, new_tokens, repeats, plan.costs):
            progress(str(row))
            rows.append(row)
    return rows


def predict(
    plan: Plan, trace: Trace, batch: int, length: int, tree: TreeConfig
) -> dict[str, float]:
    """Tokens per second, simulated on the trace with the plan's costs: plain, the best fixed tree, `tree`'s own policy, adaptive."""
    policies = {"plain": PlainPlan(), "fixed": FixedPlan(tree.depth, tree.top_k, tree.nodes)}
    policies |= {name: plan.policy(chosen) for name, chosen in TREES.items()}
    return {
        name: replay(trace, policy, plan.costs, batch, length)[0]
        for name, policy in policies.items()
    }


def describe(plan: Plan) -> str:
    """The cost table, the best fixed tree of every cell with what it promises, and the tree of the first cell drawn."""
    costs, shares = plan.costs, numpy.asarray(plan.shares)
    lines = [
        "| batch | length | 1 token | "
        + " | ".join(f"{n}" for n in costs.tokens[1:])
        + " | draft | best tree | promised |"
    ]
    lines.append("|" + "---|" * (5 + len(costs.tokens)))
    first = None
    for batch in costs.batches:
        for length in costs.lengths:
            cell = costs.at(batch, length)
            tree, rate = best_tree_for(
                shares, cell.rounds, cell.draft_seconds, min(NODES, costs.tokens[-1] - 1), DEPTH
            )
            first = first or tree
            milliseconds = [f"{1000 * cell.target[n - 1]:.1f}" for n in costs.tokens]
            shape = (
                f"{tree.size} nodes, depth {tree.depth}" if tree.size else "none: plain decoding"
            )
            lines.append(
                f"| {batch} | {length} | {' | '.join(milliseconds)} | {1000 * cell.draft[0]:.1f} | {shape} | {rate * cell.target[0]:.2f}x |"
            )
    return (
        "\n".join(lines)
        + "\n\n(milliseconds; promised: simulated from these costs and the measured acceptance)\n\n"
        + draw(first, shares)
    )
