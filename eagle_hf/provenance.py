"""What a result belongs to: the weights that made it, the machine that it was measured on."""

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
import transformers

from eagle_hf.target import unwrap
from eagle_hf.target.dtypes import cpu_features

SAMPLED_VALUES = 16  # of each weight, for its fingerprint

# Of models whose parameters are shares by now, see training/sharding.py: {model: fingerprint}.
_remembered_fingerprints: WeakKeyDictionary = WeakKeyDictionary()


def machine(target) -> dict:
    """Where a figure was measured."""
    on_gpu = target.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else cpu_name()
    return {
        "device": device,
        "cpu_features": None if on_gpu else " ".join(cpu_features()),
        "threads": torch.get_num_threads(),
        "dtype": dtype_name(target),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def dtype_name(model) -> str:
    """As "bfloat16"."""
    return str(model.dtype).removeprefix("torch.")


def cpu_name() -> str:
    """The processor's name and how many of its cores this machine has."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name
        )
    return f"{name}, {os.cpu_count()} cores"


def weights_fingerprint(target, parameters: Iterable[tuple] | None = None) -> str:
    """A fingerprint of the target: name, shape and first values of each parameter.

    Adapters are included. Sampled, so that it costs milliseconds; training moves every value, so a
    sample is enough. Rounded to bfloat16, so that a target is the same one in float32.
    """
    if has_remembered_fingerprint(target):
        return _remembered_fingerprints[unwrap(target)]
    digest = hashlib.sha256()
    for name, parameter in target.named_parameters() if parameters is None else parameters:
        values = (
            []
            if parameter.is_meta
            else parameter.detach().flatten()[:SAMPLED_VALUES].bfloat16().float().tolist()
        )
        digest.update(repr((name, tuple(parameter.shape), values)).encode())
    return digest.hexdigest()


def remember_fingerprint(target) -> None:
    """Fix the target's fingerprint now, before a process loses parts of its weights."""
    _remembered_fingerprints[unwrap(target)] = weights_fingerprint(target)


def has_remembered_fingerprint(target) -> bool:
    """Whether `remember_fingerprint` was called for this target."""
    return unwrap(target) in _remembered_fingerprints
