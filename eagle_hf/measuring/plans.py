"""Making a plan: real answers for the acceptance, and timed forwards for the costs."""

import itertools
from collections.abc import Callable, Sequence

import numpy
import torch
from transformers.utils import logging

from eagle_hf.data.prompts.suites import (
    first_turn_ids,
    load_suite,
    long_prompts,
    with_template_variables,
)
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import chat_template
from eagle_hf.decoding.assistants import require_assistant
from eagle_hf.head.acceptance import Acceptance
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.acceptance import (
    DEPTH,
    NEW_TOKENS,
    WIDTH,
    answer_all,
    fit_trace,
    measure_acceptance,
)
from eagle_hf.measuring.costs import BATCHES, LENGTHS, measure_costs, quiet
from eagle_hf.measuring.replay import replay
from eagle_hf.measuring.speeds import HEADER, Speed, measure_cell
from eagle_hf.measuring.traces import Trace, record
from eagle_hf.planning.plan import Plan
from eagle_hf.planning.policies import FixedPolicy, PlainPolicy
from eagle_hf.planning.sequoia import best_tree_for
from eagle_hf.planning.static_tree import draw
from eagle_hf.target import execution_device, rope_limit, unwrap
from eagle_hf.training.acceptance import held_out_prompts

logger = logging.get_logger(__name__)

NODES = 63  # read at most
CHILDREN = 32  # offered of every node that is run
# The trees that a plan is for.
TREES = {
    policy: TreeConfig(policy, depth=DEPTH, top_k=WIDTH, nodes=NODES)
    for policy in ("sequoia", "adaptive")
}


def questions(
    tokenizer,
    assistant,
    categories: Sequence[str],
    per_category: int,
    length: int,
    chat_template_kwargs: dict | str | None = None,
) -> list[torch.Tensor]:
    """Ids [1, S] of what acceptance is measured on: first turns of each category.

    For a model behind a window they are as many texts of `length` tokens made of such turns: in
    short ones it would see all there is. `chat_template_kwargs` are the template's variables; one
    that it never reads is refused with a ValueError.
    """
    arguments = TemplateArguments.read(chat_template_kwargs)
    arguments.check_read_by(chat_template(tokenizer))
    if require_assistant(assistant).reads_window_only:
        count = per_category * len(categories)
        return list(long_prompts(tokenizer, length, count, categories, arguments).split(1))
    prompts = load_suite(categories, per_category)
    prompts = with_template_variables(prompts, tokenizer, chat_template_kwargs)
    return [first_turn_ids(tokenizer, prompt)["input_ids"] for prompt in prompts]


def record_answers(
    target,
    tokenizer,
    assistant,
    starts: list[torch.Tensor],
    max_new_tokens: int,
    seed: int = 0,
    **sampling,
) -> Trace:
    """What an assistant proposes everywhere along the target's own answers.

    Args:
        target: the model that answers.
        tokenizer: the target's.
        assistant: a draft head, a WindowedDraft or a SelfSpeculation.
        starts: prompts [1, S].
        max_new_tokens: of each answer.
        seed: of sampled answers.
        sampling: settings of generate; default greedy.
    """
    device = execution_device(target)
    starts = [start.to(device) for start in starts]
    settings = dict(
        do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id
    )
    torch.manual_seed(seed)
    answers = answer_all(target, starts, settings | sampling)
    return record(target, assistant, starts, answers, DEPTH, WIDTH, CHILDREN)


def held_out_acceptance(trainer) -> Acceptance | None:
    """What `measure_acceptance` finds on the prompts of a trainer's evaluation set.

    Args:
        trainer: an Eagle3Trainer.

    Returns:
        None where there are none to measure on.
    """
    args = trainer.args
    if trainer.eval_dataset is None or not args.eval_prompts or args.shard_target:
        return None
    try:
        longest = rope_limit(trainer.target) - NEW_TOKENS
        prompts = held_out_prompts(trainer.eval_dataset, args.eval_prompts, longest)
    except ValueError as error:
        logger.warning(f"how often the head is accepted was not measured: {error}")
        return None
    head = unwrap(trainer.accelerator.unwrap_model(trainer.model))
    starts = [torch.tensor([prompt]) for prompt in prompts if isinstance(prompt, list)]
    if not starts:
        logger.warning("how often the head is accepted was not measured: all prompts hold images")
        return None
    return measure_acceptance(trainer.target, head, starts)


def make_plan(
    target,
    assistant,
    trace: Trace,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    repeats: int = 7,
    progress: Callable[[str], None] = quiet,
) -> Plan:
    """A plan from a trace of this assistant on this target, and from costs measured now.

    Let nothing else run on the machine meanwhile.

    Args:
        target, assistant: as in `measure_costs`.
        trace: of the assistant's proposals along real answers, see `record`.
        batches, lengths, repeats, progress: as in `measure_costs`.

    Returns:
        The plan.
    """
    shares, calibration = fit_trace(trace)
    costs = measure_costs(
        target,
        assistant,
        batches=batches,
        lengths=lengths,
        repeats=repeats,
        progress=progress,
    )
    return Plan(costs, shares, calibration)


def measure_plan(
    target,
    tokenizer,
    assistant,
    plan: Plan,
    new_tokens: int = 64,
    repeats: int = 3,
    progress: Callable[[str], None] = quiet,
    template_arguments: TemplateArguments | None = None,
) -> list[Speed]:
    """How fast a plan's policies decode in each of its cells, beside what it predicts.

    The plan is set on the assistant.

    Args:
        target: the model that verifies.
        tokenizer: the target's.
        assistant: what the plan was made for.
        plan: the plan.
        new_tokens: decoded in each cell, of the longest row.
        repeats: of every method.
        progress: is told the table, line by line.
        template_arguments: what the chat template of the prompts is given. Default: nothing.

    Returns:
        A row per cell and tree.
    """
    assistant.plan = plan
    progress(HEADER)
    speeds = []
    for batch, length in itertools.product(plan.costs.batches, plan.costs.lengths):
        ids = long_prompts(tokenizer, length, batch, template_arguments=template_arguments)
        ids = ids.to(execution_device(target))
        for speed in measure_cell(target, assistant, TREES, ids, new_tokens, repeats, plan.costs):
            progress(str(speed))
            speeds.append(speed)
    return speeds


def predict(
    plan: Plan, trace: Trace, batch: int, length: int, tree: TreeConfig
) -> dict[str, float]:
    """Tokens per second by method, simulated on a trace with the plan's costs.

    The methods are plain decoding, the tree as a fixed one, and the plan's own policies.
    """
    policies = {
        "plain": PlainPolicy(),
        "fixed": FixedPolicy(tree.depth, tree.top_k, tree.nodes),
    }
    for name, planned in TREES.items():
        policies[name] = plan.policy(planned)
    rates = {}
    for name, policy in policies.items():
        rates[name], _ = replay(trace, policy, plan.costs, batch, length)
    return rates


def describe(plan: Plan) -> str:
    """The cost table with the best fixed tree of every cell, and the first of these drawn."""
    costs = plan.costs
    shares = numpy.asarray(plan.shares)
    counts = [str(count) for count in costs.tokens[1:]]
    columns = ["batch", "length", "1 token", *counts, "draft", "best tree", "predicted"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    trees = []
    most = min(NODES, costs.tokens[-1] - 1)
    for batch, length in itertools.product(costs.batches, costs.lengths):
        cell = costs.at(batch, length)
        tree, rate = best_tree_for(shares, cell.rounds, cell.draft_seconds, most, DEPTH)
        trees.append(tree)
        milliseconds = [f"{1000 * cell.target[count - 1]:.1f}" for count in costs.tokens]
        shape = f"{tree.size} nodes, depth {tree.depth}" if tree.size else "none: plain decoding"
        row = [str(batch), str(length), *milliseconds, f"{1000 * cell.draft[0]:.1f}", shape]
        row.append(f"{rate * cell.target[0]:.2f}x")
        lines.append(f"| {' | '.join(row)} |")
    legend = "(milliseconds; predicted: simulated from these costs and the measured acceptance)"
    return "\n".join(lines) + f"\n\n{legend}\n\n{draw(trees[0], shares)}"
