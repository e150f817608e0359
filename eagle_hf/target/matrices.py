"""The matrix of a module, however its weights are stored.

A quantised module's `weight` is not its matrix. bitsandbytes puts two values into a byte, torchao
keeps a subclass of tensor, GPTQ has no `weight` and torch's dynamic quantisation makes it a
method. Of an offloaded module it is an empty tensor on the meta device. So what such a module
multiplies with is read through its forward, which all of them have.

H inputs of a module, O its outputs, V vocabulary, U draft vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from eagle_hf.target.evaluating import evaluating
from eagle_hf.target.structure import unwrap

OUTPUTS_AT_ONCE = 2**23  # 34 MB in float32


def execution_device(model: Any) -> torch.device:
    """Return the device that a model's inputs go to.

    Args:
        model: A transformers model, wrapped or not. Its embeddings may be offloaded.
    """
    model = unwrap(model)
    device = model.device
    if device.type != "meta":
        return device
    return _hook_device(model.get_input_embeddings()) or device


def module_inputs(model: Any, module: Any) -> tuple[torch.device, torch.dtype]:
    """Return where a module of a model computes, and the dtype that its inputs have there.

    Args:
        model: The transformers model.
        module: One of its modules, such as the LM head.

    Returns:
        (device, dtype). The dtype is that of the weight, or the model's where the weight is not
        stored as a plain tensor.
    """
    weight: Any = getattr(module, "weight", None)
    dtype = weight.dtype if is_plain(weight) else model.dtype
    device = _hook_device(module)
    if device is None and isinstance(weight, torch.Tensor):
        device = weight.device
    return device or execution_device(model), dtype


def has_plain_matrix(module: Any) -> bool:
    """Whether a module is a `nn.Linear` whose `weight`, offloaded or not, is its matrix."""
    if type(module) is not nn.Linear or not is_plain(module.weight):
        return False
    if module.weight.is_meta and not _is_offloaded(module):
        return False
    # accelerate's hook runs the forward that it found
    forward: Any = getattr(module, "_old_forward", module.forward)
    return getattr(forward, "__func__", None) is nn.Linear.forward


def in_memory(module: nn.Module) -> AbstractContextManager[None]:
    """Hold a module's own weights in memory inside the block, wherever they are offloaded to.

    Args:
        module: Any module; nothing happens where its weights are in memory.
    """
    if not _is_offloaded(module):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)


@torch.no_grad()
def matrix_rows(model: Any, module: Any, ids: torch.Tensor, width: int) -> torch.Tensor:
    """Read rows of a linear module's matrix.

    Args:
        model: The transformers model that holds it.
        module: A linear layer of any layout, with an adapter or without.
        ids: Which of its O rows, [U].
        width: Its inputs, H.

    Returns:
        The rows [U, H], on the module's device.
    """
    if has_plain_matrix(module):
        with in_memory(module):
            return module.weight[ids.to(module.weight.device)].detach()
    model = unwrap(model)
    device, dtype = module_inputs(model, module)
    ids = ids.to(device)
    units = torch.eye(width, device=device, dtype=dtype)
    columns = []
    with evaluating(module):
        outputs = module(units[:1]).shape[-1]
        for part in units.split(max(1, OUTPUTS_AT_ONCE // outputs)):
            # the difference leaves a bias out
            doubled = module(part) - module(-part)  # [n, O]
            columns.append(doubled[:, ids] / 2)
    return torch.cat(columns).T  # [U, H]


def stored_matrix(module: Any) -> torch.Tensor | None:
    """Return the weight [O, H] of an embedding or a linear module as it is stored.

    Args:
        module: The module.

    Returns:
        A plain tensor; None where the module is quantised.
    """
    is_matrix = has_plain_matrix(module) or isinstance(module, nn.Embedding)
    if not is_matrix or not is_plain(module.weight):
        return None
    with in_memory(module):
        return None if module.weight.is_meta else module.weight.detach()


def is_plain(weight: Any) -> bool:
    """Whether a weight is a tensor of numbers that are used as they are, on whatever device.

    Args:
        weight: What a module has under this name.
    """
    if type(weight) not in (torch.Tensor, nn.Parameter):
        return False
    return weight.is_floating_point() and weight.itemsize > 1  # one byte is a code, with a scale


def _is_offloaded(module: Any) -> bool:
    """Whether accelerate brings a module's weights into memory for each forward."""
    return bool(getattr(getattr(module, "_hf_hook", None), "offload", False))


def _hook_device(module: Any) -> torch.device | None:
    """Where accelerate runs a module; None where it has no say."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return None if device is None else torch.device(device)
