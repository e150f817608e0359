"""Opening the frozen target, with an adapter over it where one is given."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    ProcessorMixin,
)

from eagle_hf.target.adapter_opening import lay_adapter
from eagle_hf.target.dtypes import default_device, resolve_dtype
from eagle_hf.target.gguf import resolve
from eagle_hf.target.quantised import finish_loading
from eagle_hf.target.tokenizers import open_tokenizer, warn_of_unknown_tokens

SHARED_OPTIONS = ("revision", "trust_remote_code", "token")  # of model, config and tokenizer


def load_target(
    name_or_path: str | Path,
    adapter: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str | None = None,
    work: str = "draft",
    **kwargs,
) -> tuple[Any, Any]:
    """Open a causal LM, or an image-text model, and its tokenizer.

    A folder that transformers knows as both is opened as a causal LM.

    Args:
        name_or_path: A hub id, a folder, a `.gguf` file, or "smollm2", the embedded
            SmolLM2-135M-Instruct.
        adapter: Hub id or folder of a PEFT adapter laid over it. Where it holds embeddings of
            another size, the target's are resized first.
        tokenizer: Hub id or folder of the tokenizer. Default: the adapter's where it brings one,
            else the target's.
        dtype: "auto" is what the device does this work fastest in (see dtypes.py), and what is
            stored where the weights are quantised. "stored" is what the checkpoint holds. A dtype
            or its name is obeyed.
        device: Where to put it. Default: where `device_map` puts it, else the CPU.
        work: "draft", "batch", "prefill" or "train", what `dtype="auto"` is chosen for.
        kwargs: Those of `AutoModelForCausalLM.from_pretrained` (attn_implementation, revision,
            device_map, ...).

    Returns:
        (target, tokenizer). The target is frozen and in eval mode. What prepares images for it is
        `load_processor(name_or_path)`.

    Raises:
        ValueError: It cannot be opened, the device cannot compute in this dtype, or `device` and
            `device_map` are both given.
    """
    if device is not None and kwargs.get("device_map") is not None:
        raise ValueError(
            f"device is {str(device)!r} and device_map {kwargs['device_map']!r}; both say where "
            "the target lies: leave one out"
        )
    path = resolve(name_or_path)
    shared = {key: kwargs[key] for key in SHARED_OPTIONS if key in kwargs}
    try:
        opened = open_tokenizer(path, adapter, tokenizer, shared)
        config = AutoConfig.from_pretrained(path, **shared)
        loaded_dtype = _loaded_dtype(config, dtype, device, work, "device_map" in kwargs)
        opener = auto_class(config) or AutoModelForCausalLM  # which knows remote code, too
        target = opener.from_pretrained(path, dtype=loaded_dtype, **kwargs)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"the target {name_or_path} cannot be opened ({error}); a file is missing, truncated "
            "or damaged, or the name is wrong: check it, or download it again"
        ) from error
    if adapter is not None:
        target = lay_adapter(target, adapter)
    warn_of_unknown_tokens(opened, target)
    if device is not None:
        target = target.to(device)
    target.requires_grad_(False).eval()
    finish_loading(target)
    return target, opened


def load_processor(name_or_path: str | Path, **kwargs: Any) -> Any:
    """Open what prepares a target's inputs.

    Args:
        name_or_path: As in `load_target`.
        kwargs: Those of `AutoProcessor.from_pretrained` (revision, token, ...).

    Returns:
        The processor of an image-text model, with the target's own tokenizer and template; the
        tokenizer of any other target.

    Raises:
        ValueError: It cannot be opened.
    """
    path = resolve(name_or_path)
    shared = {key: kwargs[key] for key in SHARED_OPTIONS if key in kwargs}
    try:
        config = AutoConfig.from_pretrained(path, **shared)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return AutoTokenizer.from_pretrained(path, **kwargs)
        processor = AutoProcessor.from_pretrained(path, **kwargs)
    except (ImportError, OSError) as error:
        raise ValueError(
            f"the processor of {name_or_path} cannot be opened ({error}); install what it needs, "
            "or check the name"
        ) from error
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"{name_or_path} is an image-text model and has a {type(processor).__name__} in place "
            "of a processor; save the processor's files beside the weights"
        )
    return processor


def auto_class(config: PreTrainedConfig) -> Any | None:
    """Return the auto class that opens a model of a config.

    Args:
        config: The model's config. One that is known as both kinds opens as a causal LM.

    Returns:
        The class; None where transformers knows neither kind of such a model.
    """
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return None


def _loaded_dtype(
    config: PreTrainedConfig,
    dtype: str | torch.dtype,
    device: torch.device | str | None,
    work: str,
    is_mapped: bool,
) -> torch.dtype | str:
    """What from_pretrained is given as dtype; its own "auto" is what the checkpoint holds."""
    if dtype == "stored":
        return "auto"
    if dtype == "auto" and getattr(config, "quantization_config", None):
        return "auto"
    if device is None:
        device = default_device() if is_mapped else "cpu"
    return resolve_dtype(dtype, device, work)
