"""What a result belongs to: the weights that made it, the machine that it was measured on."""

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers

from eagle_hf.target import execution_device, unwrap
from eagle_hf.target.dtypes import cpu_features
from eagle_hf.target.quantised import (
    finish_loading,
    first_column,
    plain_parameters,
    quantised_linears,
    tensor_parts,
)

SAMPLED_VALUES = 16  # of each weight, for its fingerprint

# Of models whose parameters are shares by now, see training/sharding.py: {model: fingerprint}.
_remembered_fingerprints: WeakKeyDictionary = WeakKeyDictionary()


def machine(target: Any) -> dict[str, Any]:
    """Describe where a figure was measured.

    Args:
        target: The model that was measured.

    Returns:
        device, cpu_features (None on a GPU), gpu_features (None on a CPU), threads, dtype,
        torch and transformers.
    """
    on_gpu = execution_device(target).type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else cpu_name(),
        "cpu_features": None if on_gpu else " ".join(cpu_features()),
        "gpu_features": gpu_features(execution_device(target)) if on_gpu else None,
        "threads": torch.get_num_threads(),
        "dtype": dtype_name(target),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def gpu_features(device: torch.device) -> str:
    """Describe a CUDA GPU beyond its name: what it can, how large it is, by which CUDA."""
    properties = torch.cuda.get_device_properties(device)
    return (
        f"compute capability {properties.major}.{properties.minor}, "
        f"{properties.multi_processor_count} multiprocessors, "
        f"{properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    )


def dtype_name(model: Any) -> str:
    """Return a model's dtype by name, as "bfloat16"."""
    return str(model.dtype).removeprefix("torch.")


def cpu_name() -> str:
    """Return the processor's name, and how many of its cores this machine has."""
    name = _model_name() or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _model_name() -> str | None:
    """The processor's name in Linux's /proc/cpuinfo, where there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return None
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return None


def weights_fingerprint(
    target: Any, parameters: Iterable[tuple[str, torch.Tensor]] | None = None
) -> str:
    """Return a fingerprint of a model: name, shape and first values of each parameter.

    Values are sampled, so it costs milliseconds. Training moves every value, so a sample is
    enough. They are rounded to bfloat16, so a model is the same one in float32.

    Of a quantised linear layer it takes what the layer computes, because kernels repack what they
    store: this costs about one token. Offloaded weights are read once.

    Args:
        target: The model, adapters included.
        parameters: Names and parameters to use instead of the model's own.

    Returns:
        A sha256 in hexadecimal digits.
    """
    if has_remembered_fingerprint(target):
        return _remembered_fingerprints[unwrap(target)]
    finish_loading(target)
    digest = hashlib.sha256()
    quantised: Iterable[tuple[str, Any]] = ()
    if parameters is None:
        parameters = plain_parameters(target, loaded=True)
        quantised = quantised_linears(target)
    for name, parameter in parameters:
        entry = (name, tuple(parameter.shape), _sampled_values(parameter))
        digest.update(repr(entry).encode())
    for name, module in quantised:
        column = first_column(target, module)
        entry = (name, len(column), _sampled_values(column))
        digest.update(repr(entry).encode())
    return digest.hexdigest()


def remember_fingerprint(target: Any) -> None:
    """Fix the target's fingerprint now, before a process loses parts of its weights."""
    _remembered_fingerprints[unwrap(target)] = weights_fingerprint(target)


def has_remembered_fingerprint(target: Any) -> bool:
    """Whether `remember_fingerprint` was called for this target."""
    return unwrap(target) in _remembered_fingerprints


def _sampled_values(parameter: torch.Tensor) -> list[float]:
    """The first values of a parameter, or of its parts; none where it is on the meta device."""
    values = []
    for part in tensor_parts(parameter):
        if not part.is_meta:
            sample = part.detach().flatten()[:SAMPLED_VALUES]
            values += sample.bfloat16().float().tolist()
    return values
