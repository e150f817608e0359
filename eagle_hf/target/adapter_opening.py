"""PEFT adapters laid over a model, whose embeddings grow where the adapter's have grown."""

import textwrap
import warnings
from pathlib import Path
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

# Where PEFT keeps the whole matrix of an embedding or an LM head, behind that module's name. Other
# weights there, as LoRA's, are as wide as a rank.
KEPT_IN = ("", ".base_layer", ".modules_to_save", ".token_adapter.base_layer")


def lay_adapter(model: Any, adapter: str | Path) -> Any:
    """Lay a PEFT adapter over a model.

    An adapter that was trained after `resize_token_embeddings` holds the embeddings of that size.
    The model's are then resized first, in place.

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
            _resize_embeddings(model, adapter)
            return PeftModel.from_pretrained(model, adapter)
        except Exception as error:  # of a dozen kinds, whatever does not fit first
            reason = textwrap.shorten(str(error), 300)
            raise ValueError(
                f"the adapter {adapter} cannot be laid over this {type(model).__name__} "
                f"({reason}); "
                "give the folder or hub id of a PEFT adapter that was trained on this very model"
            ) from error


def _resize_embeddings(model: Any, adapter: str | Path) -> None:
    """Give a model's embeddings the size of those that an adapter holds, if it holds any."""
    embeddings = model.get_input_embeddings()
    if embeddings is None:  # a draft head has none of its own
        return
    size = _stored_vocabulary(model, adapter)
    known = model.config.get_text_config().vocab_size
    if size is None or size == known:
        return
    logger.warning(
        f"the adapter {adapter} was trained with {size} tokens and the model has {known}; its "
        "embeddings are resized"
    )
    # their rows are the adapter's in the end, so means of the old ones need not be computed
    model.resize_token_embeddings(size, mean_resizing=False)


def _stored_vocabulary(model: Any, adapter: str | Path) -> int | None:
    """How many rows an adapter's own embeddings or LM head have; None where it holds neither."""
    from peft.utils import load_peft_weights

    resized = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if module in resized]
    endings = []
    for name in names:
        endings += [f".{name}{part}.weight" for part in KEPT_IN]
    weights = load_peft_weights(str(adapter), device="cpu")
    for key, weight in weights.items():
        if any(key.endswith(ending) for ending in endings):
            return weight.shape[0]
    return None
