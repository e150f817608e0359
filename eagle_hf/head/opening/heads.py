"""`open_head`: a folder or hub repository as config, weights and dialect."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging

from eagle_hf.head.configuration import Eagle3Config, check_window
from eagle_hf.head.dialects import recognise, translate_config, translate_names
from eagle_hf.head.opening.files import HUB_OPTIONS, read_config
from eagle_hf.head.opening.fitting import announced_shapes, choose_tensors, read_weights
from eagle_hf.head.opening.pickles import SAFE_CONVERSION
from eagle_hf.head.opening.tensors import Stored, stored_tensors

logger = logging.get_logger(__name__)

LARGEST_TREE = 2**12  # nodes, levels, or children of a node


@dataclass(frozen=True)
class OpenedHead:
    """What a folder holds, checked and in our words.

    Args:
        config: The head's config.
        weights: Its tensors by our names.
        dialect: The dialect of the folder.
    """

    config: Eagle3Config
    weights: dict[str, torch.Tensor]
    dialect: str


def open_head(
    model_class: Callable[[Eagle3Config], nn.Module],
    source: str | Path,
    kwargs: dict[str, Any],
) -> OpenedHead:
    """Open a head, complete and fit for `model_class(config)`.

    Args:
        model_class: What the weights must fit.
        source: A folder or hub id.
        kwargs: Those of `from_pretrained`. The ones that are used here are taken out.

    Raises:
        ValueError: The source holds no such head, or none that is safe. The message names it.
        OSError: There is no such source.
    """
    hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
    _refuse_options(source, kwargs)
    safetensors = kwargs.pop("use_safetensors", None)
    if Path(str(source), hub.get("subfolder") or "", "adapter_config.json").is_file():
        raise ValueError(
            f"{source} holds a PEFT adapter, not a head; merge it: "
            f"eagle-hf merge --head HEAD --adapter {source} --out NEW_FOLDER, or load it over its "
            "head: head.load_adapter"
        )
    with _errors_of(source), ExitStack() as files:
        # 1) what the folder says of itself, and what its tensors are called
        raw = read_config(source, hub)
        stored = stored_tensors(source, hub, files, safetensors)
        dialect = recognise(raw, stored)
        renamed = _rename(stored, dialect)

        # 2) whether both fit together
        config = kwargs.pop("config", None) or _make_config(raw, dialect, renamed, kwargs)
        announced = announced_shapes(model_class, config)
        chosen = choose_tensors(renamed, announced, config, source)

        # 3) only now are weights read
        weights = read_weights(chosen, config)
    if raw.get("quantization_config"):
        logger.warning(
            f"{source}: its quantization_config is left out; the weights are not quantised"
        )
    logger.info(f"{source}: a head in the dialect {dialect}")
    return OpenedHead(config, weights, dialect)


def _refuse_options(source: str | Path, kwargs: dict[str, Any]) -> None:
    """Refuse options of from_pretrained that would be unsafe or ignored."""
    if kwargs.pop("weights_only", True) is not True:
        raise ValueError(f"weights_only=False was given for {source}; {SAFE_CONVERSION}")
    if kwargs.pop("variant", None) is not None:
        raise ValueError(
            f"a variant was given for {source}; heads have none, give subfolder or revision"
        )
    config = kwargs.get("config")
    if not isinstance(config, Eagle3Config | None):
        raise ValueError(
            f"config is {config!r:.60}; give an Eagle3Config, or none to read the folder's"
        )


@contextmanager
def _errors_of(source: str | Path) -> Generator[None]:
    """Every error names the source, and is a ValueError or OSError whatever a file provoked."""
    try:
        yield
    except (OSError, MemoryError, ImportError):
        raise
    except (SafetensorError, EOFError) as error:
        raise ValueError(
            f"the weight file of {source} cannot be read ({error}); it is truncated or damaged: "
            "copy or download it again"
        ) from error
    except ValueError as error:
        text = str(error)
        if str(source) not in text:
            text = f"{source}: {text}"
        raise ValueError(text) from error
    except Exception as error:
        raise ValueError(
            f"{source} cannot be opened as an EAGLE-3 head ({type(error).__name__}: {error!s:.300})"
        ) from error


def _rename(stored: dict[str, Stored], dialect: str) -> dict[str, Stored]:
    """The tensors under our names, without those that are not loaded."""
    renamed = {}
    for name, ours in translate_names(stored, dialect).items():
        if ours is not None:
            renamed[ours] = stored[name]
    return renamed


def _make_config(
    raw: dict[str, Any], dialect: str, stored: dict[str, Stored], kwargs: dict[str, Any]
) -> Eagle3Config:
    """The config of a folder; fields that from_pretrained was given are taken out and win."""
    values = translate_config(raw, dialect)
    if dialect != "eagle_hf":
        # a foreign config is often the target's copy, so only the tensors tell of biases
        values["attention_bias"] = "midlayer.self_attn.q_proj.bias" in stored
        values["mlp_bias"] = "midlayer.mlp.gate_proj.bias" in stored
    for field in fields(Eagle3Config):
        if field.name != "dtype" and field.name in kwargs:
            values[field.name] = kwargs.pop(field.name)
    config = Eagle3Config(**values)
    _check_drafting(config)
    return config


def _check_drafting(config: Eagle3Config) -> None:
    """Refuse settings that would fail, or never end, while generating."""
    check_window(config.window)
    tree = config.tree
    _ = config.acceptance  # a property that refuses what it cannot parse
    if max(tree.depth, tree.top_k, tree.nodes) > LARGEST_TREE:
        raise ValueError(
            f"the tree {tree} is larger than {LARGEST_TREE}; no target verifies that many tokens "
            "at once"
        )
