"""What training wrote down, parsed: the log_history of trainer_state.json."""

import re
from dataclasses import dataclass, field
from typing import Any

# eval_tau, or eval_NAME_tau of one of several evaluation sets
TAU = re.compile(r"eval_(?:(.+)_)?tau")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        step: of training.
        part: the evaluation set's name, "" for the only one.
        tau: tokens a round.
        alpha: by depth.
        loss: of the evaluation set, where it was computed.
    """

    step: int
    part: str
    tau: float
    alpha: tuple[float, ...] = field(default=())
    loss: float | None = None


def parse_training(content: dict[str, Any]) -> list[Evaluation]:
    """The evaluations of a training run in which a tau was measured, by step."""
    found: dict[tuple[str, int], Evaluation] = {}
    for entry in content["log_history"]:
        for key, value in entry.items():
            matched = TAU.fullmatch(key)
            if matched is None:
                continue
            part = matched[1] or ""
            start = key.removesuffix("tau")
            alpha = []
            while f"{start}alpha_{len(alpha) + 1}" in entry:
                alpha.append(entry[f"{start}alpha_{len(alpha) + 1}"])
            step = entry["step"]
            loss = entry.get(f"{start}loss")
            # a run that went on has logged a step twice: the later one counts
            found[part, step] = Evaluation(step, part, value, tuple(alpha), loss)
    return [found[key] for key in sorted(found)]
