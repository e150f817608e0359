"""Compiled forwards of a round: `TreeConfig(compile=True)` asks for them.

On a CPU one compiled forward serves every tree, batch and length, and is kept on disk (see
eagle_hf/compilation). On other devices every round is computed on tensors of the same sizes, and on
a CUDA GPU each forward becomes one captured graph.

Module state: the forwards opened so far by model, and the models given to `compile_target`.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from transformers.utils import logging

from eagle_hf.compilation.building import BuildError
from eagle_hf.compilation.forwards import ExportedForward, NodesForward
from eagle_hf.compilation.packages import (
    KeptForward,
    PackageError,
    make_forward,
    open_forward,
    package_folder,
)
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target import active_adapters, execution_device, unwrap

logger = logging.get_logger(__name__)

ANY_SIZE = {"cpu"}  # devices whose compiled forwards take tensors of any size
LEAST_SIZE = 256  # slots
MOST_SHAPES = 512  # that one function is compiled for, over all models and batches of a process

# model -> {what is captured: its forward, or None where it was refused}
_kept: WeakKeyDictionary = WeakKeyDictionary()
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
    if kept_forward(NodesForward(model)) is None:
        raise ValueError(
            f"{type(model).__name__} is not compiled, for the reason said above; generate without "
            "compile_target"
        )
    _compiled_targets.add(model)
    return target


def is_compiled(target: Any) -> bool:
    """Whether a model was given to `compile_target`."""
    return unwrap(target) in _compiled_targets


def as_compiled(tree: TreeConfig, target: Any) -> TreeConfig:
    """The tree, with compile=True for a target that was given to `compile_target`."""
    return replace(tree, compile=tree.compile or is_compiled(target))


def kept_forward(module: ExportedForward) -> KeptForward | None:
    """The compiled forward of a module on the CPU; compiled where none is kept.

    Args:
        module: what is computed, see compilation/forwards.py.

    Returns:
        The forward; None where there can be none, which is said once.
    """
    forwards = _kept.setdefault(module.model, {})
    if module.name not in forwards:
        forwards[module.name] = _open_or_make(module)
    forward = forwards[module.name]
    if forward is None or is_current(forward, module):
        return forward
    del forwards[module.name]
    return kept_forward(module)


def is_current(forward: KeptForward, module: ExportedForward) -> bool:
    """Whether a forward found before is still the model's: its weights, without adapters."""
    return forward.reads(module) and not active_adapters(module.model)


def _open_or_make(module: ExportedForward) -> KeptForward | None:
    """Open what is kept, else compile it; where neither is possible, say why."""
    name = type(unwrap(module.model)).__name__
    try:
        check_compilable(module.model)
        forward = open_forward(module)
        if forward is not None:
            return forward
        logger.warning_once(
            f"{name} is compiled for this processor, which takes a minute or two once; it is kept "
            f"in {package_folder(module).parent}. eagle-hf compile does it beforehand"
        )
        started = time.perf_counter()
        forward = make_forward(module)
    except (BuildError, PackageError) as error:
        logger.warning_once(f"{name} is not compiled and computes as before: {error}")
        return None
    logger.warning(f"{name} was compiled in {time.perf_counter() - started:.0f} s")
    return forward


def check_compilable(model: Any) -> None:
    """Raise a PackageError for a model whose forward may change from call to call."""
    adapters = active_adapters(model)
    if adapters:
        raise PackageError(
            f"it carries the adapter {', '.join(adapters)}, which may be switched at any time; "
            "merge it into the weights: model.merge_and_unload()"
        )


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
