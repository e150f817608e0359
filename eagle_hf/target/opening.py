"""Opening the frozen target, with an adapter over it where one is given."""

import textwrap
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from eagle_hf.target.dtypes import default_device, resolve_dtype
from eagle_hf.target.gguf import resolve

SHARED_OPTIONS = ("revision", "trust_remote_code", "token")  # of model, config and tokenizer


def load_target(
    name_or_path: str | Path,
    adapter: str | Path | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str | None = None,
    work: str = "draft",
    **kwargs,
) -> tuple[Any, Any]:
    """Open a causal LM and its tokenizer.

    Args:
        name_or_path: A hub id, a folder, a `.gguf` file, or "smollm2", the embedded
            SmolLM2-135M-Instruct.
        adapter: Hub id or folder of a PEFT adapter laid over it.
        dtype: "auto" is what the device does this work fastest in (see dtypes.py), and what is
            stored where the weights are quantised. "stored" is what the checkpoint holds. A dtype
            or its name is obeyed.
        device: Where to put it. Default: where `device_map` puts it, else the CPU.
        work: "draft", "batch", "prefill" or "train", what `dtype="auto"` is chosen for.
        kwargs: Those of `AutoModelForCausalLM.from_pretrained` (attn_implementation, revision,
            device_map, ...).

    Returns:
        (target, tokenizer). The target is frozen and in eval mode.

    Raises:
        ValueError: It cannot be opened, or the device cannot compute in this dtype.
    """
    path = resolve(name_or_path)
    shared = {key: kwargs[key] for key in SHARED_OPTIONS if key in kwargs}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **shared)
        loaded_dtype = _loaded_dtype(path, shared, dtype, device, work, "device_map" in kwargs)
        target = AutoModelForCausalLM.from_pretrained(path, dtype=loaded_dtype, **kwargs)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"the target {name_or_path} cannot be opened ({error}); a file is missing, truncated "
            "or damaged, or the name is wrong: check it, or download it again"
        ) from error
    if adapter is not None:
        target = lay_adapter(target, adapter)
    if device is not None:
        target = target.to(device)
    return target.requires_grad_(False).eval(), tokenizer


def _loaded_dtype(
    path: str,
    shared: dict[str, Any],
    dtype: str | torch.dtype,
    device: torch.device | str | None,
    work: str,
    is_mapped: bool,
) -> torch.dtype | str:
    """What from_pretrained is given as dtype; its own "auto" is what the checkpoint holds."""
    if dtype == "stored":
        return "auto"
    if dtype == "auto":
        config = AutoConfig.from_pretrained(path, **shared)
        if getattr(config, "quantization_config", None):
            return "auto"
    if device is None:
        device = default_device() if is_mapped else "cpu"
    return resolve_dtype(dtype, device, work)


def lay_adapter(model: Any, adapter: str | Path) -> Any:
    """Lay a PEFT adapter over a model.

    PEFT itself only warns of adapter weights that are missing, and the model would go on as if it
    had no adapter. Here this is an error.

    Args:
        model: A transformers model.
        adapter: Hub id or folder of the adapter.

    Returns:
        The model inside a PeftModel.

    Raises:
        ValueError: The adapter does not fit.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Found missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, adapter)
        except Exception as error:  # of a dozen kinds, whatever does not fit first
            reason = textwrap.shorten(str(error), 300)
            raise ValueError(
                f"the adapter {adapter} cannot be laid over this {type(model).__name__} "
                f"({reason}); "
                "give the folder or hub id of a PEFT adapter that was trained on this very model"
            ) from error
