"""A saved head as it lies on disk: nothing is executed, and tensors are read one at a time.

The config stays as it was written, because that is what the engines read. Only tensors go by our
names, with the names in the file kept beside them.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from eagle_hf.head.dialects import recognise, translate_names
from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.opening import Stored, open_head, read_config, stored_tensors
from eagle_hf.hub.files import SAFETENSORS, check_hub_options, find_file, read_chat_template

# Names of tensors, as ours.
EMBEDDINGS = "embed_tokens.weight"
LM_HEAD = "lm_head.weight"
VOCABULARY_MAP = ("d2t", "t2d")


@dataclass(frozen=True)
class SavedHead:
    """config.json and the tensors of a head.

    Args:
        source: Folder or hub id.
        raw: config.json as it was written.
        config: The same, with the layer config of the speculators format laid flat.
        dialect: None where the config is no EAGLE-3 head's.
        refusal: Why eagle_hf cannot open the head; None where it can.
        tensors: By our names, embeddings included.
        on_disk: Our name -> the name in the file.
        unreadable: What is wrong with the weight files, where they cannot be read at all.
        is_pickle: Whether the weights are a pickle, no safetensors.
        template: The chat template beside the head.
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
        """Rows of the LM head by the config: the whole vocabulary without the key, or with null."""
        if self.config.get("draft_vocab_size") is None:
            return self.size("vocab_size")
        return self.size("draft_vocab_size")

    @property
    def has_whole_vocabulary(self) -> bool:
        """Whether the draft vocabulary is the target's, by the config."""
        return self.draft_vocab_size == self.size("vocab_size")

    @property
    def num_aux(self) -> int:
        """Aux hidden states that an engine sizes fc for."""
        size = self.size("num_aux_hidden_states")
        if size is not None:
            return size
        # Without the key engines count the nested list, or take EAGLE-3's three.
        nested = self.table("eagle_config").get(LAYER_IDS_KEY)
        return len(nested) if isinstance(nested, list) and nested else 3


@contextmanager
def open_saved_head(source: str | Path, **hub_kwargs: Any) -> Generator[SavedHead]:
    """Open a head's folder or hub id; its tensors can be read while the context lasts.

    Args:
        source: Folder or hub id.
        hub_kwargs: Options of the Hub: revision, token, cache_dir, subfolder, ...

    Yields:
        The head, even one that eagle_hf or the engines refuse.

    Raises:
        ValueError, OSError: There is no config.json to read.
    """
    hub = check_hub_options(hub_kwargs)
    raw = read_config(source, hub)
    # The files stay open, because tensors are read when a rule asks for them.
    with ExitStack() as files:
        stored: dict[str, Stored] = {}
        tensors: dict[str, Stored] = {}
        on_disk: dict[str, str] = {}
        unreadable = None
        try:
            stored = stored_tensors(source, hub, files)
            on_disk = _our_names(stored)
            tensors = {own: stored[name] for own, name in on_disk.items()}
        # A head without readable weights still has a config to check.
        except (ValueError, EOFError, OSError, SafetensorError) as error:
            unreadable = str(error)
        dialect, refusal = _try_to_open(source, raw, stored, hub)
        yield SavedHead(
            source=str(source),
            raw=raw,
            config=_flat_config(raw),
            dialect=dialect,
            refusal=refusal,
            tensors=tensors,
            on_disk=on_disk,
            unreadable=unreadable,
            is_pickle=not any(find_file(source, name, hub) for name in SAFETENSORS),
            template=read_chat_template(source, hub),
        )


def _flat_config(raw: dict[str, Any]) -> dict[str, Any]:
    """The config with the keys of a nested layer config beside its own, which count first."""
    layer = raw.get("transformer_layer_config")
    return {**layer, **raw} if isinstance(layer, dict) else raw


def _our_names(stored: dict[str, Stored]) -> dict[str, str]:
    """Our name of each tensor -> the name in the file.

    Names are translated whatever dialect the config claims: by "authors" all of them are. What is
    never loaded keeps its name, without `model.`.
    """
    on_disk = {}
    for name, own in translate_names(stored, "authors").items():
        on_disk[own or name.removeprefix("model.")] = name
    return on_disk


def _try_to_open(
    source: str | Path, raw: dict[str, Any], stored: dict[str, Stored], hub: dict[str, Any]
) -> tuple[str | None, str | None]:
    """(dialect, why eagle_hf does not open the head); the weights are read for it, and let go."""
    dialect = None
    try:
        dialect = recognise(raw, stored)
        open_head(Eagle3DraftHead, source, dict(hub))
    except (ValueError, OSError) as error:
        return dialect, str(error)
    return dialect, None
