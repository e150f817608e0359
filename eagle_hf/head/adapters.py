"""PEFT adapters beside a head: kept apart from its weights, laid over copies that share them.

A head never changes when an adapter is loaded, so that training, saving and drafting without one
are as before. Calls draft with copies of the head's modules. They read its weights where these lie,
and have the adapter's layers around them. No copy is switched from one adapter to another, so calls
that run at the same time, or end by an error, cannot disturb each other.
"""

import copy
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig

WEIGHTS = "adapter_model.safetensors"
HEAD_FILES = ("config.json", "model.safetensors")
BARE = "__base__"  # PEFT's name for rows without an adapter
# What PEFT puts before and into the names of a head's own weights.
PREFIX = "base_model.model."
WRAPPED = ".base_layer"
# Initialisations after which the wrapped layer holds its own weights still.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal")

_lock = threading.RLock()  # copies are made by one thread at a time


@dataclass(frozen=True)
class Adapter:
    """An adapter as PEFT saves it.

    Attributes:
        config: its settings.
        weights: its tensors, by their names on disk.
    """

    config: "LoraConfig"
    weights: dict[str, torch.Tensor]

    @property
    def mixing_obstacle(self) -> str:
        """Why rows with it and rows without cannot share a forward; "" where they can."""
        if self.config.use_dora:
            return "it is a DoRA"
        start = self.config.init_lora_weights
        if start not in PLAIN_STARTS:
            return f"it was made with init_lora_weights={start!r}, which changes the head's weights"
        return ""

    def save(self, folder: str | Path) -> None:
        """Write it as PEFT does.

        Raises:
            ValueError: The folder holds a head.
        """
        existing = [name for name in HEAD_FILES if Path(folder, name).exists()]
        if existing:
            raise ValueError(
                f"{folder} holds {' and '.join(existing)} of a model; save the adapter in a folder "
                "of its own"
            )
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(str(folder))
        save_file(self.weights, Path(folder, WEIGHTS), metadata={"format": "pt"})


def inner_name(index: int) -> str:
    """What an adapter is called inside of a copy: names of users may mean something to PEFT."""
    return f"adapter_{index}"


def read_adapter(adapter: str | Path, **hub: Any) -> Adapter:
    """Read an adapter.

    Args:
        adapter: A folder that PEFT saved, or a hub id.
        hub: revision, subfolder and token, where it is a hub id.

    Raises:
        ValueError: There is none, or it is not a LoRA.
    """
    from peft import PeftConfig
    from peft.utils import load_peft_weights

    hub = {key: value for key, value in hub.items() if value is not None}
    try:
        config = PeftConfig.from_pretrained(str(adapter), **hub)
        kind = getattr(config.peft_type, "value", config.peft_type)
        is_lora = kind == "LORA" and not config.alora_invocation_tokens
        weights = load_peft_weights(str(adapter), device="cpu", **hub) if is_lora else {}
    except Exception as error:  # of a dozen kinds: no folder, no file, not JSON, cut off
        reason = textwrap.shorten(str(error), 300)
        raise ValueError(
            f"{adapter} is no adapter ({reason}); give a folder that PEFT saved, such as the one "
            "that recipes/adapt.py --lora_rank leaves, or a LoRA run's checkpoint"
        ) from error
    if not is_lora:
        kind = kind if kind != "LORA" else "activated LoRA"
        raise ValueError(
            f"{adapter} is an adapter of the kind {kind}, and heads draft with LoRA alone; train "
            "a LoRA, or merge it into a head of its own: eagle-hf merge"
        )
    return Adapter(config, weights)


class LoadedAdapters:
    """The adapters of one head by name, and the copies of the head that draft with them."""

    def __init__(self) -> None:
        self._loaded: dict[str, Adapter] = {}
        # names -> where the head's weights lay, and the copy
        self._copies: dict[tuple[str, ...], tuple[dict, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or pickled with the head: copies of the head are made anew."""
        return {"_loaded": dict(self._loaded), "_copies": {}}

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were loaded."""
        return tuple(self._loaded)

    def get(self, name: str) -> Adapter:
        """An adapter.

        Raises:
            ValueError: None of this name is loaded.
        """
        if name not in self._loaded:
            loaded = ", ".join(map(repr, self._loaded)) or "none"
            raise ValueError(
                f"there is no adapter {name!r} on this head (loaded: {loaded}); load it: "
                f"head.load_adapter(folder, adapter_name={name!r})"
            )
        return self._loaded[name]

    def add(self, name: str, adapter: Adapter) -> None:
        """Keep an adapter under a free name."""
        with _lock:
            self._loaded[name] = adapter
            self._forget(name)

    def remove(self, name: str) -> None:
        """Drop an adapter; calls that draft with it go on."""
        with _lock:
            del self._loaded[name]
            self._forget(name)

    def over(self, head: Any, name: str) -> Any:
        """The copy of the head that drafts with one adapter: the same one at every call."""
        self.get(name)
        return self._copy(head, (name,))

    def check_mixing(self, names: Sequence[str | None]) -> None:
        """Raise a ValueError where one of several adapters needs a forward of its own."""
        for name in names:
            obstacle = self.get(name).mixing_obstacle if name is not None else ""
            if obstacle:
                raise ValueError(
                    f"the adapter {name!r} cannot share a batch with other rows: {obstacle}; "
                    "call generate for its rows alone"
                )

    def for_rows(self, head: Any, rows: Sequence[str | None]) -> tuple[Any, list[str]]:
        """A new copy of the head whose layers take an adapter for each row.

        Args:
            head: Whose adapters these are.
            rows: A name for each row; None for the head alone.

        Returns:
            The copy, and what PEFT calls the adapter of each row.

        Raises:
            ValueError: One of them needs a forward of its own.
        """
        self.check_mixing(rows)
        mixable = [name for name, adapter in self._loaded.items() if not adapter.mixing_obstacle]
        laid = self._copy(head, tuple(mixable))
        inner = {name: inner_name(index) for index, name in enumerate(mixable)}
        return sharing_copy(laid), [BARE if name is None else inner[name] for name in rows]

    def _copy(self, head: Any, names: tuple[str, ...]) -> Any:
        """The copy with these adapters, made anew where the head's weights lie elsewhere now."""
        with _lock:
            now = _places(head)
            places, laid = self._copies.get(names, ({}, None))
            if places != now:
                laid = lay(head, [self._loaded[name] for name in names])
                self._copies[names] = (now, laid)
            return laid

    def _forget(self, name: str) -> None:
        """Drop the copies with this adapter, and those with several."""
        self._copies = {
            names: copied
            for names, copied in self._copies.items()
            if len(names) == 1 and name not in names
        }


def lay(head: Any, adapters: Sequence[Adapter]) -> Any:
    """A copy of the head with the layers of adapters around its own, the first of them at work.

    Raises:
        ValueError: An adapter does not fit the head.
    """
    from peft import PeftModel

    if getattr(head, "peft_config", None):
        raise ValueError(
            "the head is inside a PeftModel; load adapters on a head that is not, or choose them "
            "by PeftModel.set_adapter"
        )
    devices = [head.device] if head.device.type == "cuda" else []
    # PEFT draws numbers for weights that are then loaded: a caller's sampling must not notice
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.no_grad():
        laid = None
        for index, adapter in enumerate(adapters):
            config = copy.deepcopy(adapter.config)
            config.inference_mode = True
            if laid is None:
                laid = PeftModel(sharing_copy(head), config, adapter_name=inner_name(index))
            else:
                laid.add_adapter(inner_name(index), config)
            _fill(laid, inner_name(index), adapter.weights, head)
    assert laid is not None, "there is an adapter to lay over the head"
    return laid.eval().requires_grad_(False).get_base_model()


def _fill(laid: Any, name: str, weights: dict[str, torch.Tensor], head: Any) -> None:
    """Load an adapter's weights; whatever is missing, left over or of another shape is an error."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    bias = laid.peft_config[name].bias
    if bias != "none":
        raise ValueError(
            f"it was made with bias={bias!r} and trains the head's own biases; merge it: "
            "eagle-hf merge"
        )
    own = dict(head.named_parameters())
    learnt = {}
    for key, weight in weights.items():
        base = own.get(key.removeprefix(PREFIX).replace(WRAPPED, ""))
        if base is None:
            learnt[key] = weight
        elif not torch.equal(base.cpu(), weight.to(base.dtype)):  # PEFT adds LM heads unasked
            raise ValueError(f"it holds a {key} that is not this head's")
    expected = get_peft_model_state_dict(laid, adapter_name=name, save_embedding_layers=False)
    shared = {parameter.data_ptr() for parameter in own.values()}
    for key, weight in expected.items():
        if weight.data_ptr() in shared:
            raise ValueError(
                f"it trains {key}, a weight of the head itself; merge it: eagle-hf merge"
            )
        if key not in learnt:
            raise ValueError(f"it lacks {key}")
        if learnt[key].shape != weight.shape:
            raise ValueError(
                f"its {key} is {tuple(learnt[key].shape)} and this head needs {tuple(weight.shape)}"
            )
    left_over = sorted(learnt.keys() - expected.keys())
    if left_over:
        raise ValueError(f"its {left_over[0]} has no place in this head")
    set_peft_model_state_dict(laid, learnt, adapter_name=name)


def sharing_copy(head: Any) -> Any:
    """A copy of a head's modules that reads its weights where they lie, without their gradients."""
    shared: dict[int, Any] = {}
    for parameter in head.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in head.buffers():
        shared[id(buffer)] = buffer
    for value in (head.config, head.plan, head.last_run):
        shared[id(value)] = value
    shared[id(head.adapters)] = LoadedAdapters()
    return copy.deepcopy(head, shared)


def _places(head: Any) -> dict[str, tuple]:
    """Where each weight and buffer lies, and as what."""
    places = {}
    for name, tensor in (*head.named_parameters(), *head.named_buffers()):
        places[name] = (tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape)
    return places
