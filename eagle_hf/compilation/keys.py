"""What a compiled forward depends on, as the name of the folder that it is kept in."""

import hashlib
import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from eagle_hf.compat import attention_implementation
from eagle_hf.compilation import operators
from eagle_hf.compilation.building import cpu_features, tuning
from eagle_hf.compilation.forwards import ExportedForward
from eagle_hf.compilation.graphs import SETTINGS
from eagle_hf.target import unwrap
from eagle_hf.target.gguf.copies import cache_folder
from eagle_hf.target.quantised import tensor_parts

PACKAGE = Path(__file__).parents[1]
# Fields of a config that name a model or its files, and that no forward reads.
NAMES_ONLY = {"_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype"}


def package_folder(forward: ExportedForward) -> Path:
    """Where the package of a forward lies, or would lie."""
    name = type(unwrap(forward.model)).__name__
    return cache_folder() / "forwards" / f"{name}-{package_key(forward)}"


def package_key(forward: ExportedForward) -> str:
    """A hash of all that a package depends on."""
    parts = {
        "config": described_config(unwrap(forward.model).config.to_dict()),
        "class": class_hash(type(unwrap(forward.model))),
        "tensors": described(named_tensors(forward)),
        "computed": forward.name,
        "attention": attention_implementation(unwrap(forward.model).config),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": (cpu_features(), tuning()),
        "operators": operators.is_available(),
        "settings": SETTINGS,
        "sources": source_hash(),
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module by name; shared ones under each of their names.

    A quantised weight is made of several tensors. They have the names that torch gives them when it
    exports the module.
    """
    tensors = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        parts = tensor_parts(parameter.detach())
        if len(parts) == 1:
            tensors[name] = parts[0]
            continue
        owner, _, own = name.rpartition(".")
        for index, part in enumerate(parts):
            tensors[f"{owner}.parametrizations.{own}.original{index}"] = part
    return tensors | dict(module.named_buffers(remove_duplicate=False))


def described(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Dtypes and shapes; and which tensors share their memory."""
    first: dict[int, str] = {}
    descriptions = {}
    for name, tensor in tensors.items():
        shares = first.setdefault(tensor.data_ptr(), name)
        descriptions[name] = f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} {shares}"
    return descriptions


def described_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what names it and changes nothing, sub-configs included."""
    kept = {}
    for name, value in config.items():
        if name not in NAMES_ONLY:
            kept[name] = described_config(value) if isinstance(value, dict) else value
    return kept


def class_hash(kind: type) -> str:
    """A hash of the file that a model's class is written in, which may be no library's."""
    try:
        source = inspect.getsourcefile(kind)
    except TypeError:
        source = None
    if source is None or not Path(source).exists():
        return repr(kind)
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


@cache
def source_hash() -> str:
    """A hash of the files that are exported: this room's, the head's and the target's."""
    digest = hashlib.sha256()
    for room in ("compilation", "head", "target"):
        for file in sorted(PACKAGE.joinpath(room).rglob("*")):
            if file.suffix in (".py", ".cpp", ".h"):
                digest.update(file.read_bytes())
    return digest.hexdigest()
