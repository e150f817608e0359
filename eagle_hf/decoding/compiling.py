"""Compiled forwards of a round: `TreeConfig(compile=True)` asks for them.

On a CPU one compiled forward serves every tree, batch and length, and is kept on disk (see
eagle_hf/compilation). On other devices every round is computed on tensors of the same sizes, and on
a CUDA GPU each forward becomes one captured graph.

Module state: the forwards opened so far by model, and the models given to `compile_target`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from transformers.utils import logging

from eagle_hf.compilation.building import BuildError
from eagle_hf.compilation.forwards import ExportedForward, NodesForward
from eagle_hf.compilation.keys import package_folder
from eagle_hf.compilation.packages import (
    KeptForward,
    PackageError,
    make_forward,
    open_forward,
)
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target import adapters_of, execution_device, unwrap

logger = logging.get_logger(__name__)

ANY_SIZE = {"cpu"}  # devices whose compiled forwards take tensors of any size
LEAST_SIZE = 256  # slots
MOST_SHAPES = 512  # that one function is compiled for, over all models and batches of a process

# model -> {what is computed: its forward, or why there is none}
_kept: WeakKeyDictionary = WeakKeyDictionary()
_lock = threading.RLock()
_compiled_targets: WeakSet = WeakSet()


def compile_target(target: Any) -> Any:
    """Let a model on the CPU generate by its compiled forward, with drafts and without.

    Plain greedy and sampled decoding then run in this package's loop. What that does not support,
    as beam search, computes as before. Compiling takes minutes once; what is compiled is kept.

    Args:
        target: A causal LM.

    Returns:
        The target.

    Raises:
        ValueError: The target is not on the CPU, or its forward cannot be compiled.
    """
    device = execution_device(target)
    if device.type != "cpu":
        raise ValueError(
            f"the target is on {device}; there transformers compiles plain decoding by itself: "
            'generate(cache_implementation="static"), and drafts are compiled by '
            "TreeConfig(compile=True)"
        )
    model = unwrap(target)
    forward = NodesForward(model)
    if kept_forward(forward) is None:
        refusal = _kept.get(model, {}).get(forward.name)
        reason = refusal.reason if isinstance(refusal, Refusal) else "torch.autocast is on"
        raise ValueError(f"{type(model).__name__} is not compiled: {reason}")
    _compiled_targets.add(model)
    return target


def is_compiled(target: Any) -> bool:
    """Whether a model was given to `compile_target`, and is still on the CPU."""
    is_given = unwrap(target) in _compiled_targets
    return is_given and not keeps_sizes(execution_device(target))


def as_compiled(tree: TreeConfig, target: Any) -> TreeConfig:
    """The tree, with compile=True for a target that was given to `compile_target`."""
    return replace(tree, compile=tree.compile or is_compiled(target))


def compiles_any_size(tree: TreeConfig, target: Any) -> bool:
    """Whether rounds with this tree are computed by kept forwards, which take every size."""
    return as_compiled(tree, target).compile and not keeps_sizes(execution_device(target))


def kept_forward(module: ExportedForward) -> KeptForward | None:
    """The compiled forward of a module on the CPU; compiled where none is kept.

    Args:
        module: what is computed, see compilation/forwards.py.

    Returns:
        The forward; None where there can be none, which is said once, and on other devices.
    """
    if keeps_sizes(execution_device(module.model)):
        return None
    if torch.is_autocast_enabled("cpu"):
        logger.warning_once("inside torch.autocast nothing is compiled: it changes dtypes")
        return None
    with _lock:  # exporting must not meet another thread that does the same
        forwards = _kept.setdefault(module.model, {})
        found = forwards.get(module.name)
        if found is None or not is_current(found, module):
            found = forwards[module.name] = _open_or_make(module)
        return found if isinstance(found, KeptForward) else None


def is_current(found: "KeptForward | Refusal", module: ExportedForward) -> bool:
    """Whether what was found before still holds: the weights, and that nothing hooks in."""
    if isinstance(found, Refusal):
        return obstacle(module.model) == found.obstacle
    return found.reads(module) and not obstacle(module.model)


def _open_or_make(module: ExportedForward) -> "KeptForward | Refusal":
    """Open what is kept, else compile it; where neither is possible, say why."""
    name = type(unwrap(module.model)).__name__
    reason = obstacle(module.model)
    if reason:
        logger.warning(f"{name} ({module.name}) is not compiled and computes as before: {reason}")
        return Refusal(reason, obstacle=reason)
    try:
        forward = open_forward(module)
        if forward is not None:
            return forward
        logger.warning(
            f"{name} ({module.name}) is compiled for this processor, which takes a minute or two "
            f"once; it is kept in {package_folder(module).parent}. eagle-hf compile does it "
            "beforehand"
        )
        started = time.perf_counter()
        forward = make_forward(module)
    except (BuildError, PackageError) as error:
        logger.warning(f"{name} ({module.name}) is not compiled and computes as before: {error}")
        return Refusal(str(error))
    logger.warning(f"{name} ({module.name}): {time.perf_counter() - started:.0f} s")
    return forward


def obstacle(model: Any) -> str:
    """Why a model's forward may not be compiled, "" where it may.

    What is compiled reads the weights where they lie, and knows of nothing else that happens later.
    """
    for module in model.modules():
        active = adapters_of(module)
        if active:
            return (
                f"it carries the adapter {', '.join(active)}, which may be switched at any time; "
                "merge it into the weights: model.merge_and_unload()"
            )
        if hasattr(module, "_hf_hook") or has_hooks(module):
            return f"a hook is on its {type(module).__name__}, which would not be called; remove it"
    rope = getattr(unwrap(model).config.get_text_config(), "rope_parameters", None) or {}
    if "mrope_section" in rope:
        return "it counts positions on several axes"
    return ""


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody's hooks run with a module; transformers' own only collect outputs."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for hook in hooks.values():
            if not getattr(hook, "__module__", "").startswith("transformers."):
                return True
    return False


@dataclass(frozen=True)
class Refusal:
    """Why a model is not compiled.

    Attributes:
        reason: as it was said.
        obstacle: of the model as it was; "" where its forward could not be compiled.
    """

    reason: str
    obstacle: str = ""


def keeps_sizes(device: torch.device) -> bool:
    """Whether compiled rounds need tensors of the same sizes: everywhere but on the CPU."""
    return device.type not in ANY_SIZE


def compiled(function: Callable, device: torch.device) -> Callable:
    """On a GPU the function compiled whole and captured as a CUDA graph; elsewhere as it is.

    A captured graph writes its results where the last ones lay. Begin every round with
    `mark_cudagraph_step`, and keep no result longer than that.
    """
    if device.type != "cuda":
        return function
    allow_many_shapes()
    return torch.compile(function, fullgraph=True, dynamic=False, mode="reduce-overhead")


def allow_many_shapes() -> None:
    """Raise torch's limit on the shapes of a function, for the process.

    The limit counts over all models, and a ninth shape would end the call with an error.
    """
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MOST_SHAPES)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, MOST_SHAPES)


def fixed_size(slots: int) -> int:
    """Slots of a cache that keeps its size: a power of two, so that calls share their graphs."""
    return max(LEAST_SIZE, 1 << (slots - 1).bit_length())


def mark_cudagraph_step() -> None:
    """Allow captured graphs to overwrite what they wrote in the last round.

    Call it only where graphs are captured: the first call loads the compiler, for seconds.
    """
    torch.compiler.cudagraph_mark_step_begin()
