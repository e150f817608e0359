"""Who drafts: a head, a smaller model, or the target itself."""

from eagle_hf.decoding.assistants.adapted import AdaptedAssistant
from eagle_hf.decoding.assistants.base import Assistant, DraftContext, Drafter, choose_policy
from eagle_hf.decoding.assistants.eagle import EagleAssistant, EagleDrafter
from eagle_hf.decoding.assistants.self_speculation import SelfDrafter, SelfSpeculation
from eagle_hf.decoding.assistants.small_model import ModelDrafter, WindowedDraft
from eagle_hf.head.adapted import AdaptedHead
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.target import unwrap

__all__ = [
    "AdaptedAssistant",
    "Assistant",
    "DraftContext",
    "Drafter",
    "EagleAssistant",
    "EagleDrafter",
    "ModelDrafter",
    "SelfDrafter",
    "SelfSpeculation",
    "WindowedDraft",
    "as_assistant",
    "choose_policy",
    "require_assistant",
]


def require_assistant(given) -> Assistant:
    """As `as_assistant`; a ValueError for what is none of ours."""
    assistant = as_assistant(given)
    if assistant is None:
        raise ValueError(
            f"{given!r:.60} is no assistant of eagle_hf; give an Eagle3DraftHead, a WindowedDraft "
            "or a SelfSpeculation"
        )
    return assistant


def as_assistant(given) -> Assistant | None:
    """The assistant in what a user passed to generate, its wrappers taken off; None if not ours."""
    if given is None:
        return None
    given = unwrap(given)
    if isinstance(given, Eagle3DraftHead):
        return EagleAssistant(given)
    if isinstance(given, AdaptedHead):
        return AdaptedAssistant(given)
    return given if isinstance(given, Assistant) else None
