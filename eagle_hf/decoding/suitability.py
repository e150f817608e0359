"""Which assistants can draft for a target, without a call of generate."""

from collections.abc import Callable
from typing import Any

import torch

from eagle_hf.decoding.assistants import SelfSpeculation, WindowedDraft
from eagle_hf.decoding.checks import check_target
from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.modeling import Eagle3DraftHead


def suitability(target: Any) -> dict[str, str]:
    """Ask what every kind of assistant would be told.

    Args:
        target: A causal LM. It may be on the meta device, because nothing is computed with it.

    Returns:
        By kind of assistant: "" if it is served, else the refusal. `WindowedDraft` stands for the
        same model as target and as draft model.
    """
    answers = {}
    for kind, make in ASSISTANTS.items():
        answers[kind] = ""
        try:
            check_target(target, make(target))
        except ValueError as error:
            answers[kind] = str(error)
    return answers


def _new_head(target: Any) -> Eagle3DraftHead:
    """A head for a target, on its device."""
    with torch.device(target.device):
        return Eagle3DraftHead(Eagle3Config.from_target(target)).eval()


def _self_speculation(target: Any) -> SelfSpeculation:
    """Self-speculation as a user gets it by default."""
    return SelfSpeculation()


ASSISTANTS: dict[str, Callable[[Any], Any]] = {
    "head": _new_head,
    "WindowedDraft": WindowedDraft,
    "SelfSpeculation": _self_speculation,
}
