"""How often a head's guesses are taken along the target's own answers, saved with the head."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch

from eagle_hf.head.acceptance import Acceptance
from eagle_hf.measuring.traces import Trace, record
from eagle_hf.planning.calibration import Calibration, fit_calibration
from eagle_hf.planning.sequoia import acceptance_vector
from eagle_hf.target import evaluating, execution_device

DEPTH = 6  # levels of the recorded trees
WIDTH = 8  # nodes run at each
KEPT_RANKS = 8  # guesses of every node whose acceptance is saved with a head
NEW_TOKENS = 48  # of each answer
ENOUGH = 30  # trials below which a depth is taken to be like the one above it
DECIMALS = 4  # of what is saved

Shares = tuple[tuple[float, ...], ...]


def fit_trace(trace: Trace) -> tuple[Shares, Calibration]:
    """What a trace says of its drafter.

    Returns:
        The acceptance [D][W] by depth and rank, and the calibration of its confidence.
    """
    trials, accepted = trace.counts(DEPTH)
    known = max(1, int((trials >= ENOUGH).sum()))
    shares = acceptance_vector((trials[:known], accepted[:known]))
    calibration = fit_calibration(trace.outcomes(WIDTH), depths=known)
    return tuple(map(tuple, shares.tolist())), calibration


def measure_acceptance(
    target, head, starts: list[torch.Tensor], max_new_tokens: int = NEW_TOKENS
) -> Acceptance | None:
    """How often a head's guesses are taken along the target's own greedy answers.

    Args:
        target: the model that answers.
        head: the draft head.
        starts: prompts [1, S]. Use ones that the head was not trained on, because trees are chosen
            by what is measured here.
        max_new_tokens: of each answer.

    Returns:
        None where no answer has two tokens.
    """
    settings = dict(
        do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=_padding_token(target)
    )
    answers = answer_all(target, starts, settings)
    return acceptance_along(target, head, starts, answers)


def acceptance_along(
    target, head, starts: list[torch.Tensor], answers: list[torch.Tensor]
) -> Acceptance | None:
    """How often a head's guesses are taken along answers that the target has given.

    Args:
        target: the model that answered.
        head: the draft head.
        starts: prompts [1, S], as in `measure_acceptance`.
        answers: [n] each, to these prompts.

    Returns:
        None where no answer has two tokens.
    """
    if max(map(len, answers), default=0) < 2:
        return None
    device = execution_device(target)
    starts = [start.to(device) for start in starts]
    with evaluating(head):
        trace = record(target, head, starts, answers, DEPTH, WIDTH, KEPT_RANKS)
    shares, calibration = fit_trace(trace)
    slopes = tuple(round(slope, DECIMALS) for slope in calibration.slopes)
    offsets = tuple(round(offset, DECIMALS) for offset in calibration.offsets)
    return Acceptance(tuple(map(_rounded_down, shares)), slopes, offsets)


def answer_all(target, starts: list[torch.Tensor], settings: dict) -> list[torch.Tensor]:
    """The target's own answers [n] to prompts [1, S]; settings are generate's."""
    device = execution_device(target)
    answers = []
    for start in starts:
        start = start.to(device)
        output = target.generate(start, attention_mask=torch.ones_like(start), **settings)
        answers.append(output[0, start.shape[1] :])
    return answers


def save_acceptance(folder: str | Path, acceptance: Acceptance | None) -> None:
    """Write it into the config.json of a saved head.

    Args:
        folder: of the head.
        acceptance: what was measured; None changes nothing.
    """
    if acceptance is None:
        return
    path = Path(folder, "config.json")
    config = json.loads(path.read_text())
    config["eagle_hf"] = config.get("eagle_hf", {}) | {"acceptance": asdict(acceptance)}
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(config, indent=2) + "\n")
    scratch.rename(path)


def _padding_token(target) -> int:
    """The target's padding token, or its end-of-turn token if it has none."""
    if target.generation_config.pad_token_id is not None:
        return target.generation_config.pad_token_id
    tokens = target.generation_config.eos_token_id
    tokens = tokens or target.config.get_text_config().eos_token_id
    return tokens[0] if isinstance(tokens, list) else tokens


def _rounded_down(row: tuple[float, ...]) -> tuple[float, ...]:
    """Shares with DECIMALS digits; rounded up, they could add up to more than 1."""
    scale = 10**DECIMALS
    return tuple(math.floor(scale * share) / scale for share in row)
