"""A target without its weights: the model that its config describes, on the meta device."""

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from eagle_hf.target.gguf import find_copy, gguf_file, read_gguf_config, resolve
from eagle_hf.target.opening import auto_class


def open_without_weights(name_or_path: str | Path) -> PreTrainedModel:
    """Make the model of a target's config; no weights are read, downloaded or computed.

    Args:
        name_or_path: A hub id, a folder, a config.json, a `.gguf` file, or "smollm2".

    Returns:
        The model, in eval mode. Its tensors have shapes but no values.

    Raises:
        ValueError: There is no such config, or it is none of a causal language model.
    """
    config = _read_config(name_or_path)
    opener = auto_class(config)
    if opener is None:
        raise ValueError(
            f"the config of {name_or_path} is a {type(config).__name__}, which transformers has no "
            "causal language model for; give a decoder-only model"
        )
    with torch.device("meta"):
        return opener.from_config(config).eval()


def _read_config(name_or_path: str | Path) -> PreTrainedConfig:
    """The config of a target; of a GGUF file from its header, unless it was converted."""
    file = gguf_file(name_or_path)
    if file is not None and find_copy(file) is None:
        return AutoConfig.for_model(**read_gguf_config(file))
    try:
        return AutoConfig.from_pretrained(resolve(name_or_path))
    except OSError as error:
        raise ValueError(
            f"{name_or_path} has no config that can be read ({error}); give a hub id, a folder or "
            "a config.json"
        ) from error
