"""The target that a head is checked against: config, chat template, and tensors on demand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from eagle_hf.head.opening import read_config, read_json
from eagle_hf.hub.files import SAFETENSORS, check_hub_options, find_file, read_chat_template
from eagle_hf.target.gguf import find_copy, gguf_file, read_gguf_config, read_header, resolve
from eagle_hf.target.matrices import stored_matrix

TARGET_OPTIONS = ("cache_dir", "local_files_only", "token")  # all others are the head's alone

# What names of the input embeddings and of the LM head end with, in models of many families.
EMBEDDING_ENDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
)
LM_HEAD_ENDINGS = ("lm_head.weight", "embed_out.weight", "output.weight")


def _read_nothing() -> Tensor | None:
    """The tensor of a target that is known by its config alone."""
    return None


@dataclass(frozen=True)
class Target:
    """What is known of a target.

    Args:
        name: As it was given.
        config: config.json with the text part of a multimodal one laid flat.
        template: The chat template; None where it is not known.
        read_embeddings: Reads the input embeddings [V, H]; None where they are not at hand.
        read_lm_head: Reads the LM head [V, H], likewise.
    """

    name: str
    config: dict[str, Any]
    template: str | None = None
    read_embeddings: Callable[[], Tensor | None] = _read_nothing
    read_lm_head: Callable[[], Tensor | None] = _read_nothing


def open_target(target: Any, **hub_kwargs: Any) -> Target:
    """Open a target; of a folder only what is asked for is read.

    Args:
        target: A folder, a hub id, "smollm2", a .gguf file, a model or its config. A GGUF file is
            converted when its weights are first asked for.
        hub_kwargs: Options of the Hub for the head; token, cache_dir and local_files_only are the
            target's too.

    Returns:
        The target's facts.

    Raises:
        ValueError: `target` is something else.
    """
    if not isinstance(target, (str, Path)):
        return _from_object(target)
    options = check_hub_options(hub_kwargs)
    hub = {key: value for key, value in options.items() if key in TARGET_OPTIONS}
    config, template = _read_facts(target, hub)
    is_tied = config.get("tie_word_embeddings") is True
    lm_head_endings = EMBEDDING_ENDINGS if is_tied else LM_HEAD_ENDINGS

    # `resolve` is called as late as possible: it converts a GGUF file.
    def read_embeddings() -> Tensor | None:
        return _read_tensor(resolve(target), hub, EMBEDDING_ENDINGS)

    def read_lm_head() -> Tensor | None:
        return _read_tensor(resolve(target), hub, lm_head_endings)

    return Target(str(target), config, template, read_embeddings, read_lm_head)


def _read_facts(target: str | Path, hub: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """(flat config, chat template); of a GGUF file from its header, unless it was converted."""
    file = gguf_file(target)
    if file is not None and find_copy(file) is None:
        return _flat_config(read_gguf_config(file)), read_header(file).template
    folder = resolve(target)
    return _flat_config(read_config(folder, hub)), read_chat_template(folder, hub)


def _from_object(target: Any) -> Target:
    """The facts of a model or config in memory."""
    config = getattr(target, "config", target)
    if not hasattr(config, "get_text_config"):
        raise ValueError(
            f"the target is a {type(target).__name__}; "
            "give a folder, a hub id, a model or its config"
        )
    name = config.name_or_path or type(target).__name__
    text_config = config.get_text_config().to_dict()
    # A config alone has no tensors.
    if config is target:
        return Target(name, text_config)

    def read_embeddings() -> Tensor | None:
        return stored_matrix(target.get_input_embeddings())

    def read_lm_head() -> Tensor | None:
        return stored_matrix(target.get_output_embeddings())

    return Target(name, text_config, read_embeddings=read_embeddings, read_lm_head=read_lm_head)


def _flat_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the keys of its text part laid over its own."""
    text_config = config.get("text_config")
    return {**config, **text_config} if isinstance(text_config, dict) else config


def _read_tensor(source: str, hub: dict[str, Any], endings: tuple[str, ...]) -> Tensor | None:
    """The first tensor of a safetensors model whose name ends so; None where there is none.

    Of a model in several files only the one that holds the tensor is fetched.
    """
    whole, index = SAFETENSORS
    index_file = find_file(source, index, hub)
    file_of = read_json(index_file).get("weight_map") if index_file is not None else None
    if isinstance(file_of, dict):
        name = _first_with_ending(file_of, endings)
        # The index may be anybody's: `Path.name` keeps it inside the folder.
        file = find_file(source, Path(str(file_of[name])).name, hub) if name else None
    else:
        name = None
        file = find_file(source, whole, hub)
    if file is None:
        return None
    with safe_open(file, framework="pt") as opened:
        name = name or _first_with_ending(opened.keys(), endings)
        return opened.get_tensor(name) if name else None


def _first_with_ending(names: Any, endings: tuple[str, ...]) -> str | None:
    """The first name that ends in one of these ways."""
    for name in names:
        if name.endswith(endings):
            return name
    return None
