"""A saved head, and the target it was made for, as they lie on disk: nothing is executed, and tensors are read one at a time.

The config stays as it was written, because that is what the engines read; only tensors go by our names, with theirs kept beside.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from eagle_hf.head.dialects import recognise, translate_names
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.opening import (
    HUB_OPTIONS,
    Stored,
    contained,
    open_head,
    read_config,
    read_json,
    stored_tensors,
)
from eagle_hf.target.gguf import find_copy, gguf_file, read_gguf_config, read_header, resolve

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
)
LM_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
Tensor = torch.Tensor


@dataclass(frozen=True)
class SavedHead:
    """config.json and the tensors of a head.

    raw: config.json; config: the same with a speculators' layer config laid flat. tensors: by our names, embeddings included;
    on_disk: our name -> the name in the file. dialect: None, and refusal says why, where eagle_hf cannot open the head.
    unreadable: what is wrong with the weight files, where they cannot be read at all. template: the chat template beside it.
    """

    source: str
    raw: dict[str, Any]
    config: dict[str, Any]
    dialect: str | None
    refusal: str | None
    tensors: dict[str, Stored]
    on_disk: dict[str, str]
    unreadable: str | None
    is_pickle: bool
    template: str | None

    def size(self, key: str) -> int | None:
        """The positive integer under a key; None where there is none."""
        value = self.config.get(key)
        return value if type(value) is int and 0 < value < 2**31 else None

    def table(self, key: str) -> dict[str, Any]:
        """The table under a key; empty where there is none."""
        value = self.raw.get(key)
        return value if isinstance(value, dict) else {}

    @property
    def hidden_size(self) -> int | None:
        return self.size("hidden_size")

    @property
    def draft_vocab_size(self) -> int | None:
        """Rows of the LM head by the config: without the key, or with null, the whole vocabulary."""
        return (
            self.size("draft_vocab_size")
            if self.config.get("draft_vocab_size") is not None
            else self.size("vocab_size")
        )

    @property
    def num_aux(self) -> int:
        """States that an engine sizes fc for."""
        nested = self.table("eagle_config").get("eagle_aux_hidden_state_layer_ids")
        return self.size("num_aux_hidden_states") or (
            len(nested) if isinstance(nested, list) and nested else 3
        )


@dataclass(frozen=True)
class Target:
    """A target's config, multimodal ones' text part laid flat, and its tensors on demand (None where they are not at hand)."""

    name: str
    config: dict[str, Any]
    template: str | None = None
    read_embeddings: Callable[[], Tensor | None] = lambda: None
    read_lm_head: Callable[[], Tensor | None] = lambda: None


@contextmanager
def open_saved(source: str | Path, **hub_kwargs) -> Iterator[SavedHead]:
    """A head's folder or hub id; its tensors can be read while the context lasts. ValueError or OSError without a config.json."""
    hub = _hub_options(hub_kwargs)
    raw = read_config(source, hub)
    with ExitStack() as files:
        stored, unreadable = {}, None
        try:
            stored = stored_tensors(source, hub, files)
            tensors, on_disk = _by_our_names(stored)
        except (ValueError, EOFError, OSError, SafetensorError) as error:
            tensors, on_disk, unreadable = {}, {}, str(error)
        dialect, refusal = _verdict(source, raw, stored, hub)
        layer = raw.get("transformer_layer_config")
        yield SavedHead(
            source=str(source),
            raw=raw,
            config={**layer, **raw} if isinstance(layer, dict) else raw,
            dialect=dialect,
            refusal=refusal,
            tensors=tensors,
            on_disk=on_disk,
            unreadable=unreadable,
            template=_template(source, hub),
            is_pickle=not any(_file(source, name, hub) for name in SAFETENSORS),
        )


def _hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(kwargs) - set(HUB_OPTIONS))
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} is no option of the hub; known are {', '.join(HUB_OPTIONS)}"
        )
    return dict(kwargs)


def _by_our_names(stored: dict[str, Stored]) -> tuple[dict[str, Stored], dict[str, str]]:
    """Tensors by our names, whatever dialect the config claims; what is never loaded keeps its name, without `model.`."""
    ours = {
        name: own or name.removeprefix("model.")
        for name, own in translate_names(stored, "authors").items()
    }
    return {own: stored[name] for name, own in ours.items()}, {
        own: name for name, own in ours.items()
    }


def _verdict(
    source, raw: dict[str, Any], stored: dict[str, Stored], hub: dict[str, Any]
) -> tuple[str | None, str | None]:
    """(dialect, None where eagle_hf opens the head, else its refusal); the weights are read for it, and let go."""
    dialect = None
    try:
        dialect = recognise(raw, stored)
        open_head(Eagle3DraftHead, source, dict(hub))
    except (ValueError, OSError) as error:
        return dialect, str(error)
    return dialect, None


def open_target(target, **hub_kwargs) -> Target:
    """A target given as a folder, a hub id, "smollm2", a .gguf file, a model or its config.

    Of a folder only what is asked for is read. A GGUF file is converted when its weights are first
    asked for.
    """
    if not isinstance(target, (str, Path)):
        return _from_object(target)
    hub = {
        key: value
        for key, value in _hub_options(hub_kwargs).items()
        if key in ("cache_dir", "local_files_only", "token")
    }
    file = gguf_file(target)
    if file is not None and find_copy(file) is None:
        config = _flat(read_gguf_config(file))
        template = read_header(file).template
    else:
        place = resolve(target)
        config = _flat(read_config(place, hub))
        template = _template(place, hub)
    lm_heads = EMBEDDINGS if config.get("tie_word_embeddings") is True else LM_HEADS
    return Target(
        str(target),
        config,
        template,
        read_embeddings=lambda: _read_tensor(resolve(target), hub, EMBEDDINGS),
        read_lm_head=lambda: _read_tensor(resolve(target), hub, lm_heads),
    )


def _from_object(target) -> Target:
    config = getattr(target, "config", target)
    if not hasattr(config, "get_text_config"):
        raise ValueError(
            f"the target is a {type(target).__name__}; give a folder, a hub id, a model or its config"
        )
    facts = Target(config.name_or_path or type(target).__name__, config.get_text_config().to_dict())
    if config is target:
        return facts
    return replace(
        facts,
        read_embeddings=lambda: target.get_input_embeddings().weight.detach(),
        read_lm_head=lambda: target.get_output_embeddings().weight.detach(),
    )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _file(source, name: str, hub: dict[str, Any]) -> Path | None:
    file = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
    return None if file is None else contained(file, source)


def _template(source, hub: dict[str, Any]) -> str | None:
    file = _file(source, "chat_template.jinja", hub)
    if file is not None:
        return file.read_text(encoding="utf-8", errors="replace")
    file = _file(source, "tokenizer_config.json", hub)
    template = read_json(file).get("chat_template") if file is not None else None
    return template if isinstance(template, str) else None


def _read_tensor(source, hub: dict[str, Any], endings: tuple[str, ...]) -> Tensor | None:
    """The first tensor of a safetensors model whose name ends so; of a sharded one only its shard is fetched."""
    index = _file(source, SAFETENSORS[1], hub)
    places = read_json(index).get("weight_map") if index is not None else None
    if isinstance(places, dict):
        name = next((name for name in places if name.endswith(endings)), None)
        file = _file(source, Path(str(places[name])).name, hub) if name else None
    else:
        file, name = _file(source, SAFETENSORS[0], hub), None
    if file is None:
        return None
    with safe_open(file, framework="pt") as opened:
        name = name or next((name for name in opened.keys() if name.endswith(endings)), None)
        return opened.get_tensor(name) if name else None
