"""Quantised layers: linear layers that do not store their matrix as a plain tensor.

Of whatever library. H inputs of a layer, O its outputs.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from eagle_hf.target.evaluating import evaluating
from eagle_hf.target.matrices import execution_device, in_memory, is_plain, module_inputs
from eagle_hf.target.structure import unwrap

_mixing_layers: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()  # found once a model


def quantised_linears(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield (name, module) of every linear layer whose matrix is not stored as a plain tensor.

    Args:
        model: Any module.
    """
    for name, module in model.named_modules():
        if _is_quantised(module):
            yield name, module


def plain_parameters(model: nn.Module, loaded: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, parameter) as `named_parameters` does, without those of quantised linear layers.

    Args:
        model: Any module.
        loaded: Bring offloaded parameters into memory, one module at a time. Each is valid until
            the next one is asked for.
    """
    seen = set()
    for prefix, module in model.named_modules():
        if _is_quantised(module):
            continue
        with in_memory(module) if loaded else nullcontext():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                if parameter not in seen:
                    seen.add(parameter)
                    yield name, parameter


@torch.no_grad()
def first_column(model: Any, module: Any) -> torch.Tensor:
    """Compute the first column of a quantised linear layer's matrix, its bias added.

    Exactly one input is not zero, so no order of summation changes the result.

    Args:
        model: The model that holds it.
        module: One of `quantised_linears`.

    Returns:
        [O].
    """
    device, dtype = module_inputs(unwrap(model), module)
    unit = torch.zeros(1, module.in_features, device=device, dtype=dtype)
    unit[0, 0] = 1
    with evaluating(module):
        return module(unit)[0]


@torch.no_grad()
def finish_loading(model: Any) -> None:
    """Let a model do what its library puts off until the first forward.

    compressed-tensors unpacks a model in a hook of its own forward. Until then its decoder alone
    would compute with the packed weights.

    Args:
        model: A transformers model, wrapped or not. Nothing happens where nothing is put off.
    """
    model = unwrap(model)
    if not model._forward_pre_hooks or next(quantised_linears(model), None) is None:
        return
    with evaluating(model):
        model(torch.zeros(1, 1, dtype=torch.long, device=execution_device(model)))


@torch.no_grad()
def mixing_layer(model: Any) -> str | None:
    """Find a layer that computes a token otherwise where other tokens are read beside it.

    Some layouts scale or split the activations of all tokens together. One quantised layer of each
    kind is asked for the same token beside two different neighbours.

    Args:
        model: A transformers model, wrapped or not.

    Returns:
        The layer's class; None where every layer computes each token by itself. It is found once
        for each model.
    """
    model = unwrap(model)
    if model not in _mixing_layers:
        _mixing_layers[model] = _find_mixing_layer(model)
    return _mixing_layers[model]


def _find_mixing_layer(model: Any) -> str | None:
    """The answer of `mixing_layer`, by calling the layers."""
    probed = set()
    for _, module in quantised_linears(model):
        kind = (type(module), type(getattr(module, "weight", None)))
        if kind in probed:
            continue
        probed.add(kind)
        device, dtype = module_inputs(model, module)
        own = torch.Generator("cpu").manual_seed(0)  # leaves the caller's random numbers alone
        shape = (2, module.in_features)
        tokens = torch.randn(shape, generator=own, device=own.device).to(device, dtype)  # [2, H]
        beside = tokens.clone()
        beside[1] *= 1000  # larger than any activation, and still a float16
        with evaluating(module):
            is_same = torch.equal(module(tokens)[0], module(beside)[0])
        if not is_same:
            return type(module).__name__
    return None


def storage_layout(module: Any) -> str:
    """Describe how a quantised linear layer is stored: equal descriptions cost equal time.

    Args:
        module: One of `quantised_linears`.
    """
    weight = getattr(module, "weight", None)
    described = [type(module).__name__, type(weight).__name__]
    described += [str(module.in_features), str(module.out_features)]
    if isinstance(weight, torch.Tensor):
        described += [f"{part.dtype} {part.device}" for part in tensor_parts(weight)]
    return " ".join(described)


def tensor_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """List the plain tensors that a subclass of tensor is made of; a plain one is its own part.

    Args:
        tensor: As torchao's, for example.
    """
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [tensor]
    names, _ = flatten()
    parts = []
    for name in names:
        parts += tensor_parts(getattr(tensor, name))
    return parts


def _is_quantised(module: nn.Module) -> bool:
    """Whether a module multiplies with a matrix that it does not store as a plain tensor."""
    own = vars(module)  # quicker than hasattr, which searches
    if "in_features" not in own or "out_features" not in own:
        return False
    weight = getattr(module, "weight", None)
    if is_plain(weight) or isinstance(weight, DTensor):
        return False
    return not hasattr(module, "base_layer")  # an adapter around the layer has one
