"""A target without its weights: the model that its config describes, on the meta device."""

from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

from eagle_hf.target.gguf import find_copy, gguf_file, read_gguf_config, resolve

LOADERS = (
    (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
    (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText),
)


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
    with torch.device("meta"):
        for mapping, loader in LOADERS:
            if type(config) in mapping:
                return loader.from_config(config).eval()
    raise ValueError(
        f"the config of {name_or_path} is a {type(config).__name__}, which transformers has no "
        "causal language model for; give a decoder-only model"
    )


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
