"""Tiny random models of a target's class and config.

They are for finding out what that class can do.

What a class computes is decided by its code and by the switches in its config. Neither needs the
target's weights or widths. So a copy of the config keeps every switch, gives every number the size
that its name calls for, narrows the windows, and keeps at least one layer of each kind. The model
of such a config answers within milliseconds on any CPU.

A family whose numbers depend on each other in another way does not build, or does not run. That is
for the caller to see; nothing here judges.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from eagle_hf.compat import attention_implementation

HIDDEN_SIZE = 64
HEADS = 4
HEAD_DIM = 16
FIRST_LAYERS = 2  # are kept, besides the first one of each further kind
VOCABULARY = 128
SPECIAL_IDS = 8  # special tokens have ids below this one, ordinary tokens the others
MOST_WEIGHTS = 20_000_000
WEIGHT_SCALE = 0.15  # standard deviation of random weights: every layer moves the logits

# What a number becomes, by its name; the first match counts. One that is None or 0 stays.
SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size", VOCABULARY),
    (r"(^n_ctx|^n_positions|_seq_len|_length|_position_embeddings|_positions)$", 128),
    (r"(window(_size|_len)?|^local_attention)$", 6),
    (r"heads?$", HEADS),
    (r"^(out|text)_hidden_size$", HIDDEN_SIZE),
    (r"_rank$", 8),
)
# What a number becomes at most, by its name.
CAPS: tuple[tuple[str, int], ...] = (
    (r"_token_(id|index)$", SPECIAL_IDS - 1),
    (r"(per_tok|per_token|topk|top_k|moe_k|^n_group|expert_group)$", 2),
    (r"(^topk_group|shared_experts?)$", 1),
    (r"experts|expert_num", 4),
    (r"^depth$", 2),
)
HEAD_DIMS = r"(head_dim|^d_head|^d_kv|kv_channels|dim_head|head_size|rotary_dim)$"
KEY_VALUE_HEADS = r"(key_value_heads|kv_heads|head_kv|kv_n_heads)$"
NO_WIDTHS = r"^(image|patch|max|min|num)_|chunk|seed"
# Fields that count layers of one kind at the beginning, and at the end.
FIRST_ONES = ("first_k_dense_replace", "num_dense_layers", "max_window_layers")
LAST_ONES = ("num_kv_shared_layers",)
LAYER_NUMBERS = r"(_idxs|_indexes|_layer_ids|^moe_layers|^mlp_only_layers|^cross_attention_layers)$"
LISTS_OF_PAIRS = ("short_factor", "long_factor")  # of RoPE: an entry for each pair of a head


def miniature(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """Build a tiny random model.

    Neither the caller's random state nor his default device has a part in it.

    Args:
        model_class: The target's class.
        config: The target's config; it is not changed.
        dtype: The dtype of the model's weights.

    Returns:
        The model on the CPU, in eval mode, with the target's attention implementation.

    Raises:
        Exception: Whatever the class raises for sizes that do not suit it.
    """
    small = type(config).from_dict(
        shrunken(config), attn_implementation=attention_implementation(config)
    )
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in model_class(small).parameters())
    if weights > MOST_WEIGHTS:
        raise ValueError(f"the miniature of {model_class.__name__} has {weights} weights")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = model_class(small)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=WEIGHT_SCALE, generator=generator)
    return model.to(dtype).eval()


def shrunken(config: PreTrainedConfig, scale: float = 1.0) -> dict[str, Any]:
    """Make the values of a config small.

    Args:
        config: The config. It is not changed, nor are the configs inside it.
        scale: By how much widths shrink where the config has no hidden size of its own.

    Returns:
        The values, as `config.to_dict()` gives them.
    """
    values = config.to_dict()
    values.pop("quantization_config", None)
    names = type(config).attribute_map
    hidden_size = values.get(names.get("hidden_size", "hidden_size"))
    if isinstance(hidden_size, int):
        scale = hidden_size / HIDDEN_SIZE
    layers = Layers.of(values, names.get("num_hidden_layers", "num_hidden_layers"))
    sizes = Sizes(scale, layers, _heads(values, names), _head_dim(values, names, hidden_size))
    small = {}
    for name, value in values.items():
        inner = vars(config).get(name)
        if isinstance(inner, PreTrainedConfig):
            small[name] = shrunken(inner, scale)
        else:
            small[name] = sizes.value(name, value)
    if small.get("attention_types"):  # GPT-Neo writes its list of layers in a short form, too
        small["attention_types"] = [[small["attention_layers"], 1]]
    return small


@dataclass(frozen=True)
class Layers:
    """Which layers of a target its miniature keeps.

    Attributes:
        name: the field that counts them.
        count: how many the target has.
        kept: their numbers, ascending.
    """

    name: str
    count: int
    kept: tuple[int, ...]

    @classmethod
    def of(cls, values: dict[str, Any], name: str) -> "Layers":
        """The first layers, and the first one of each kind that is not among them."""
        count = values.get(name)
        if not isinstance(count, int):
            return cls(name, 0, ())
        kept = []
        kinds = set()
        for layer in range(count):
            kind = _kind_of(layer, count, values)
            if layer < FIRST_LAYERS or kind not in kinds:
                kept.append(layer)
                kinds.add(kind)
        return cls(name, count, tuple(kept))

    def cut(self, entries: list[Any]) -> list[Any]:
        """Of one entry for each layer, those of the layers kept."""
        return [entries[layer] for layer in self.kept]

    def renumbered(self, numbers: list[int]) -> list[int]:
        """Of the numbers of some layers, the new ones of those kept."""
        return [self.kept.index(number) for number in numbers if number in self.kept]


@dataclass(frozen=True)
class Sizes:
    """What becomes of a config's values.

    Attributes:
        scale: by how much widths shrink.
        layers: which layers are kept.
        heads: query heads of the target.
        head_dim: their width.
    """

    scale: float
    layers: Layers
    heads: int
    head_dim: int

    def value(self, name: str, value: Any) -> Any:
        """The value of a field."""
        if name == "per_layer_config" and value:
            return self._by_layer(value)
        if isinstance(value, dict):
            return self._rope(value) if name.startswith("rope") else value
        if isinstance(value, list | tuple):
            return self._list(name, list(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return self._number(name, value)
        return value

    def _list(self, name: str, entries: list[Any]) -> list[Any]:
        """A list, where there is one entry for each layer, or some layers by number."""
        if re.search(LAYER_NUMBERS, name) and self.layers.count:
            return self.layers.renumbered(entries)
        if len(entries) == self.layers.count:
            entries = self.layers.cut(entries)
        return [self.value(name, entry) for entry in entries]

    def _by_layer(self, values: dict[Any, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """What single layers have in place of the config's own values."""
        small = {}
        for layer, own in values.items():
            for number in self.layers.renumbered([int(layer)]):
                small[number] = {name: self.value(name, value) for name, value in own.items()}
        return small

    def _number(self, name: str, value: int) -> int:
        """A number by its name."""
        kept = self.layers.kept
        if name == self.layers.name:
            return len(kept)
        if name in FIRST_ONES:
            return sum(layer < value for layer in kept)
        if name in LAST_ONES:
            return sum(layer >= self.layers.count - value for layer in kept)
        if value <= 0:
            return value
        if re.search(HEAD_DIMS, name):
            return max(2, self._of_head(value) // 2 * 2)
        if re.search(KEY_VALUE_HEADS, name):
            return self._key_value_heads(value)
        for pattern, size in SIZES:
            if re.search(pattern, name):
                return size
        for pattern, most in CAPS:
            if re.search(pattern, name):
                return min(value, most)
        return self._width(name, value)

    def _key_value_heads(self, value: int) -> int:
        """One, some or all of the query heads, as in the target."""
        if value == 1:
            return 1
        return HEADS if value >= self.heads else HEADS // 2

    def _of_head(self, value: int) -> int:
        """A part of a head, in proportion to its width."""
        return max(1, value * HEAD_DIM // self.head_dim)

    def _width(self, name: str, value: int) -> int:
        """A width, in proportion to the hidden size; other numbers are small as they are."""
        if re.search(NO_WIDTHS, name):
            return value
        if value == self.scale * HIDDEN_SIZE:
            return HIDDEN_SIZE
        if value <= HIDDEN_SIZE:
            return value
        return 8 * math.ceil(value / self.scale / 8)

    def _rope(self, values: dict[str, Any]) -> dict[str, Any]:
        """Parameters of RoPE, possibly by layer kind; the original length is that of the others."""
        small = {}
        for name, value in values.items():
            if isinstance(value, dict):
                small[name] = self._rope(value)
            elif name in LISTS_OF_PAIRS:
                small[name] = value[: self._of_head(len(value))]
            elif name == "mrope_section":
                small[name] = self._sections(value)
            else:
                small[name] = self._number(name, value) if type(value) is int else value
        return small

    def _sections(self, pairs: list[int]) -> list[int]:
        """How many pairs of a head turn with each axis."""
        small = [self._of_head(count) for count in pairs]
        missing = self._of_head(sum(pairs)) - sum(small)
        return [small[0] + missing, *small[1:]]


def _kind_of(layer: int, count: int, values: dict[str, Any]) -> str:
    """What the config says of a layer, to be compared."""
    facts = []
    for name, value in values.items():
        if isinstance(value, list) and re.search(LAYER_NUMBERS, name):
            facts.append(layer in value)
        elif isinstance(value, list | tuple) and len(value) == count:
            facts.append(value[layer])
        elif name in FIRST_ONES and value:
            facts.append(layer < value)
        elif name in LAST_ONES and value:
            facts.append(layer >= count - value)
    return repr(facts)


def _heads(values: dict[str, Any], names: dict[str, str]) -> int:
    """Query heads of a config's values; HEADS where it does not say."""
    heads = values.get(names.get("num_attention_heads", "num_attention_heads"))
    return heads if isinstance(heads, int) else HEADS


def _head_dim(values: dict[str, Any], names: dict[str, str], hidden_size: Any) -> int:
    """Width of a head; HEAD_DIM where a config's values do not say."""
    head_dim = values.get(names.get("head_dim", "head_dim"))
    if isinstance(head_dim, int):
        return head_dim
    if isinstance(hidden_size, int):
        return hidden_size // _heads(values, names)
    return HEAD_DIM
