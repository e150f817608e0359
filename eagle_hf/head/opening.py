"""Open the folder of a head in any dialect: find its files, hold the config against them, and only then read weights.

Nothing in a folder is trusted. JSON is read up to a size, names of files cannot leave the folder, a pickle is read as tensors or
not at all, and every size that the config announces is held against the weights before anything of that size is allocated.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging
from transformers.utils.hub import cached_file

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.dialects import recognise, translate_config, translate_names
from eagle_hf.head.vocabulary import draft_to_target_ids, vocabulary_buffers

logger = logging.get_logger(__name__)

HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
JSON_BYTES = HEADER_BYTES = 2**24  # a head's are a few KB
LARGEST_TREE = 2**12
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
SAFE_CONVERSION = (
    "no pickle is executed here: ask its publisher for model.safetensors, or, if you trust the file, convert it on a machine that holds "
    "nothing of value: safetensors.torch.save_file(torch.load(FILE, map_location='cpu', weights_only=False), 'model.safetensors')"
)


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in its file; `read` gives a copy, so the file may be written over afterwards."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Opened:
    """What a folder holds, checked and in our words."""

    config: Eagle3Config
    weights: dict[str, torch.Tensor]
    dialect: str


def open_head(model_class, source: str | Path, kwargs: dict[str, Any]) -> Opened:
    """Config, weights and dialect of the head in a folder or hub repository, complete and fit for `model_class(config)`.

    kwargs: of from_pretrained; those that are used up are taken out. ValueError or OSError, naming the source, for anything else.
    """
    hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
    safetensors = _refuse_options(source, kwargs)
    if Path(str(source), hub.get("subfolder") or "", "adapter_config.json").is_file():
        raise ValueError(
            f"{source} holds a PEFT adapter, not a head; merge it: eagle-hf merge --head HEAD --adapter {source} --out NEW_FOLDER"
        )
    with _named(source), ExitStack() as files:
        raw = read_config(source, hub)
        stored = stored_tensors(source, hub, files, safetensors)
        dialect = recognise(raw, stored)
        held = {
            own: stored[name]
            for name, own in translate_names(stored, dialect).items()
            if own is not None
        }
        config = kwargs.pop("config", None) or _config(raw, dialect, held, kwargs)
        weights = _read(_fitting(held, _announced(model_class, config), config, source), config)
    if raw.get("quantization_config"):
        logger.warning(
            f"{source}: its quantization_config is left out; the weights are not quantised"
        )
    logger.info(f"{source}: a head in the dialect {dialect}")
    return Opened(config, weights, dialect)


def _refuse_options(source, kwargs) -> bool | None:
    """use_safetensors, after what would be ignored or unsafe has been refused."""
    if kwargs.pop("weights_only", True) is not True:
        raise ValueError(f"weights_only=False was given for {source}; {SAFE_CONVERSION}")
    if kwargs.pop("variant", None) is not None:
        raise ValueError(
            f"a variant was given for {source}; heads have none, give subfolder or revision"
        )
    if not isinstance(kwargs.get("config", None), Eagle3Config | None):
        raise ValueError(
            f"config is {kwargs['config']!r:.60}; give an Eagle3Config, or none to read the folder's"
        )
    return kwargs.pop("use_safetensors", None)


@contextmanager
def _named(source) -> Iterator[None]:
    """Every error names the source, and is a ValueError or OSError whatever a hostile file provoked."""
    try:
        yield
    except (OSError, MemoryError, ImportError):
        raise
    except (SafetensorError, EOFError) as error:
        raise ValueError(
            f"the weight file of {source} cannot be read ({error}); it is truncated or damaged: copy or download it again"
        ) from error
    except ValueError as error:
        raise ValueError(
            str(error) if str(source) in str(error) else f"{source}: {error}"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{source} cannot be opened as an EAGLE-3 head ({type(error).__name__}: {error!s:.300})"
        ) from error


def read_config(source: str | Path, hub: dict[str, Any]) -> dict[str, Any]:
    """config.json of a folder or hub repository. The weights are then taken from the same commit, which `hub` is told."""
    file = cached_file(source, "config.json", **hub)
    if file is None:
        raise ValueError(
            f"{source} holds no config.json; give a folder that save_pretrained wrote, or a hub id"
        )
    commit = next(
        (folder.name for folder in Path(file).parents if folder.parent.name == "snapshots"), None
    )
    if commit is not None and not Path(source).is_dir():
        hub["revision"] = commit
    return read_json(contained(file, source))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of at most 16 MiB; ValueError for anything else."""
    if file.stat().st_size > JSON_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size} bytes; a head's is never that large")
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is no JSON ({error!s:.200}); copy or download it again"
        ) from error
    if not isinstance(read, dict):
        raise ValueError(f"{file} holds a {type(read).__name__}; needed is a JSON object")
    return read


def contained(file: str | Path, source: str | Path) -> Path:
    """The file's path, unless it is a link out of its folder. A hub cache's links to its own blobs are none."""
    file, real = Path(file), Path(file).resolve()
    folders = [file.parent.resolve(), *([Path(source).resolve()] if Path(source).is_dir() else [])]
    in_cache = any(
        folder.name == "blobs" and (folder.parent / "snapshots").is_dir() for folder in real.parents
    )
    if not in_cache and not any(real.is_relative_to(folder) for folder in folders):
        raise ValueError(
            f"{file} is a link to {real}, outside of its folder; put the file itself there"
        )
    return file


def stored_tensors(
    source: str | Path, hub: dict[str, Any], files: ExitStack, safetensors: bool | None = None
) -> dict[str, Stored]:
    """Every tensor of the first weight file that is there, or of its shards; `files` keeps them open for reading."""
    names = [
        name
        for name in WEIGHT_FILES
        if safetensors is None or ("safetensors" in name) == safetensors
    ]
    for name in names:
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
        if file is not None:
            file = contained(file, source)
            return (
                _shards(file, source, hub, files)
                if name.endswith(".json")
                else _tensors(file, files)
            )
    raise ValueError(
        f"{source} holds a config.json but no readable weight file (looked for {', '.join(names)}); copy or download model.safetensors again"
    )


def _shards(index: Path, source, hub: dict[str, Any], files: ExitStack) -> dict[str, Stored]:
    places, suffix, stored = read_json(index).get("weight_map"), index.name.split(".")[1], {}
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files; download it again")
    for shard in set(places.values()):
        if not re.fullmatch(r"[\w-][\w.-]*", shard) or not shard.endswith(f".{suffix}"):
            raise ValueError(
                f"{index} names the file {shard!r:.80}; shards lie beside it and end with .{suffix}"
            )
    for shard in sorted(set(places.values())):
        file = cached_file(source, shard, _raise_exceptions_for_missing_entries=False, **hub)
        if file is None:
            raise ValueError(
                f"{index} names {shard}, which is not there; copy or download it again"
            )
        found = _tensors(contained(file, source), files)
        listed = {name for name, place in places.items() if place == shard}
        if set(found) != listed:
            raise ValueError(
                f"{shard} and its index disagree about {sorted(set(found) ^ listed)!s:.200}; download both again"
            )
        stored |= found
    return stored


def _tensors(file: Path, files: ExitStack) -> dict[str, Stored]:
    if file.suffix == ".bin":
        return {
            name: Stored(tuple(tensor.shape), tensor.clone)
            for name, tensor in unpickle(file).items()
        }
    with file.open("rb") as stream:
        announced = int.from_bytes(stream.read(8), "little")
    if announced > min(file.stat().st_size - 8, HEADER_BYTES):
        raise SafetensorError(f"a header of {announced} bytes in a file of {file.stat().st_size}")
    opened = files.enter_context(safe_open(file, framework="pt"))
    shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    return {
        name: Stored(shape, lambda name=name: opened.get_tensor(name).clone())
        for name, shape in shapes.items()
    }


def unpickle(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pytorch_model.bin, still in the file; a pickle that is more than tensors is refused, never executed.

    Entries that are compressed or overlap could unfold to any size, and the format before torch 1.6 allocates what it announces.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is damaged, or of the format before torch 1.6; {SAFE_CONVERSION}")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if (
        any(entry.compress_type for entry in entries)
        or sum(entry.file_size for entry in entries) > file.stat().st_size
    ):
        raise ValueError(
            f"{file} is compressed, or its parts overlap, which torch never writes; {SAFE_CONVERSION}"
        )
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # a hostile pickle provokes any type
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = wanted.group(1) if wanted else type(error).__name__
        raise ValueError(
            f"{file} is damaged, or holds more than tensors ({what}); {SAFE_CONVERSION}"
        ) from error
    if not isinstance(held, dict) or not all(
        isinstance(name, str) and _is_plain(value) for name, value in held.items()
    ):
        raise ValueError(
            f"{file} holds no plain dictionary from names to tensors; {SAFE_CONVERSION}"
        )
    return {name: tensor.detach() for name, tensor in held.items()}


def _is_plain(value: Any) -> bool:
    """Whether this is a tensor with as many bytes in the file as it has elements for: a stride of 0 makes terabytes of one."""
    if (
        not isinstance(value, torch.Tensor)
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or value.is_quantized
    ):
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _config(
    raw: dict[str, Any], dialect: str, held: dict[str, Stored], kwargs: dict[str, Any]
) -> Eagle3Config:
    values = translate_config(raw, dialect)
    if (
        dialect != "eagle_hf"
    ):  # their layers have biases or not whatever the config, often the target's copy, says
        for flag, part in (("attention_bias", "self_attn.q_proj"), ("mlp_bias", "mlp.gate_proj")):
            values[flag] = f"midlayer.{part}.bias" in held
    known = {field.name for field in fields(Eagle3Config)} - {"dtype"}
    config = Eagle3Config(**values | {key: kwargs.pop(key) for key in known & set(kwargs)})
    _check_drafting(deepcopy(config))
    return config


def _check_drafting(config: Eagle3Config) -> None:
    """Refuse settings of tree, window and acceptance that would fail, or never end, while generating."""
    config.window, tree, _ = config.window, config.tree, config.acceptance
    if max(tree.depth, tree.top_k, tree.nodes) > LARGEST_TREE:
        raise ValueError(
            f"the tree {tree} is larger than {LARGEST_TREE}; no target verifies that many tokens at once"
        )


def _announced(model_class, config: Eagle3Config) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that a config announces; nothing is allocated."""
    with torch.device("meta"):
        return {
            name: tuple(tensor.shape)
            for name, tensor in model_class(deepcopy(config)).state_dict().items()
        }


def _fitting(
    held: dict[str, Stored], announced: dict[str, tuple[int, ...]], config: Eagle3Config, source
) -> dict[str, Stored]:
    """The stored tensors that the model takes, all there and of the right shapes."""
    full = config.draft_vocab_size == config.vocab_size
    if full and "lm_head.weight" not in held:
        raise ValueError(
            f"{source} holds no lm_head.weight: it borrows the target's, which is not at hand here; write a whole head: "
            f"eagle-hf check {source} --target TARGET --fix NEW_FOLDER"
        )
    if (
        full
        and "d2t" in held
        and held["d2t"].shape == (config.vocab_size,)
        and not held["d2t"].read().any()
    ):
        held = {
            name: tensor for name, tensor in held.items() if name not in ("d2t", "t2d")
        }  # maps every id to itself
    kinds = {
        "missing_keys": sorted(set(announced) - set(held) - {"t2d"}),  # t2d follows from d2t
        "unexpected_keys": sorted(set(held) - set(announced)),
        "mismatched_keys": [
            f"{name} is {list(held[name].shape)}, announced {list(announced[name])}"
            for name in sorted(set(held) & set(announced))
            if held[name].shape != announced[name]
        ],
    }
    problems = [f"{kind}: {names}" for kind, names in kinds.items() if names]
    if problems:
        raise ValueError(
            f"{source} does not hold the weights its config.json announces ({'; '.join(problems)!s:.2000}); "
            "a head with random weights would draft garbage, so it is not opened: save or export it again"
        )
    return held


def _read(held: dict[str, Stored], config: Eagle3Config) -> dict[str, torch.Tensor]:
    weights = {name: tensor.read() for name, tensor in held.items()}
    for name, tensor in weights.items():
        if tensor.dtype not in (INTEGERS if name in ("d2t", "t2d") else FLOATS):
            raise ValueError(
                f"{name} is of {tensor.dtype}; the head is quantised or damaged, give the one it was made from"
            )
    if "d2t" in weights:
        try:
            d2t, t2d = vocabulary_buffers(
                draft_to_target_ids(weights["d2t"].long()), config.vocab_size
            )
        except ValueError as error:
            raise ValueError(
                f"d2t is unusable: {error}; d2t holds offsets, target id = draft id + d2t[draft id]"
            ) from error
        if "t2d" in weights and not torch.equal(weights["t2d"].bool(), t2d):
            raise ValueError(
                "t2d marks other tokens than d2t names; one of them is of another head, or d2t holds ids instead of offsets"
            )
        weights |= {"d2t": d2t, "t2d": t2d}
    return weights
