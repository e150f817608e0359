"""What the costs that chose a method's trees predict of the rounds that it made."""

from collections.abc import Sequence
from typing import Any

from eagle_hf.decoding.assistants import EagleAssistant, require_assistant
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.side_by_side.kept import GroupAnswer, Setting
from eagle_hf.evaluation.side_by_side.methods import OpenMethod
from eagle_hf.evaluation.side_by_side.names import LOOP
from eagle_hf.evaluation.side_by_side.served import ServedMethod
from eagle_hf.measuring.automatic import find_plan, saved_plan
from eagle_hf.planning.cost import Cell, CostTable


def predicted_speeds(
    methods: Sequence[OpenMethod | ServedMethod], target: Any, answers: Sequence[GroupAnswer]
) -> dict[tuple[str, Setting], float]:
    """Speed over the loop without drafts, by method and setting, where a plan predicts one.

    Args:
        methods: opened.
        target: who verifies.
        answers: of all methods.

    Returns:
        Tokens per second over those of one-token forwards, both by the plan's costs.
    """
    speeds = {}
    for method in methods:
        own = [answer for answer in answers if answer.method == method.name]
        alone = [answer for answer in own if answer.setting.batch == 1 and answer.stats.rounds]
        costs = _costs(method, target) if alone else None
        if costs is None:
            continue
        for setting in dict.fromkeys(answer.setting for answer in alone):
            part = [answer for answer in alone if answer.setting == setting]
            speeds[method.name, setting] = _predict(part, costs)
    return speeds


def _costs(method: OpenMethod | ServedMethod, target: Any) -> CostTable | None:
    """The costs by which a head's trees are chosen; None where none choose them."""
    if isinstance(method, ServedMethod) or method.assistant is None or method.name == LOOP:
        return None
    assistant = require_assistant(method.assistant)
    if not isinstance(assistant, EagleAssistant):
        return None
    if assistant.chooses_by_machine:
        plan, _ = find_plan(target, assistant, 1)
        return plan.costs
    plan = saved_plan(target, assistant)
    return None if plan is None else plan.costs


def _predict(answers: Sequence[GroupAnswer], costs: CostTable) -> float:
    """The predicted speed of these answers' rounds."""
    drafted = 0.0
    plain = 0.0
    for answer in answers:
        cell = costs.at(1, answer.prompt_tokens + answer.tokens // 2)
        drafted += _seconds(answer.stats, cell)
        plain += answer.stats.tokens * float(cell.target[0])
    return plain / drafted


def _seconds(stats: DecodingStats, cell: Cell) -> float:
    """Seconds of a call's rounds by the costs of one cell."""
    seconds = 0.0
    drafting_rounds = 0
    counted = 0
    for size, counts in enumerate(stats.by_size):
        rounds = sum(counts)
        counted += rounds
        drafting_rounds += rounds if size else 0
        # beyond the largest measured tree a forward grows in proportion
        largest = len(cell.target) - 1
        read = float(cell.target[min(size, largest)]) * max(1.0, (size + 1) / (largest + 1))
        seconds += rounds * read
    # rounds of plain decoding by transformers are not counted by size
    seconds += (stats.rounds - counted) * float(cell.target[0])
    for width, forwards in enumerate(stats.forwards):
        if forwards:
            seconds += forwards * cell.draft_seconds(width)
    return seconds + drafting_rounds * cell.overhead
