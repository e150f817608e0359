"""Models whose plain `generate` is answered by somebody else in the process.

Trainers call `model.generate(...)` by themselves, and have no argument for an assistant. What is
attached to the model is asked first, and may leave a call to transformers.

Module state: what is attached, by model.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from transformers.utils import logging

from eagle_hf.compat import AssistedCall
from eagle_hf.target import unwrap

logger = logging.get_logger(__name__)

Decode = Callable[[Any, AssistedCall], Any | None]

_attached: WeakKeyDictionary = WeakKeyDictionary()


def attach(model: Any, decode: Decode) -> None:
    """Let `decode` answer a model's plain generate; an earlier one loses its place, which is said.

    Args:
        model: a causal LM, with or without wrappers.
        decode: what generate returns for (model, call); None leaves the call to transformers.
    """
    if attached(model) not in (None, decode):
        logger.warning(
            "this model's generate was answered by an earlier drafter, which is replaced"
        )
    _attached[unwrap(model)] = decode


def detach(model: Any) -> None:
    """Leave a model's generate to transformers again."""
    _attached.pop(unwrap(model), None)


def attached(model: Any) -> Decode | None:
    """What answers a model's plain generate; None where transformers does."""
    return _attached.get(unwrap(model))
