"""The dialects that EAGLE-3 heads are published in: which one a folder speaks, and what its words are in ours.

Dictionaries and strings in, dictionaries and strings out. Read from the writers' sources, none of which was run here:

| dialect | written by | how it is told | tensors | layer ids |
| --- | --- | --- | --- | --- |
| eagle_hf | this package | key `eagle_hf` | `midlayer.*` | under `eagle_hf`, HF indices |
| authors | SafeAILab/EAGLE, eagle/traineagle3 | nothing else fits | `midlayer.*` | none |
| specforge | sgl-project/SpecForge, specforge/modeling/draft | `LlamaForCausalLMEagle3` | `midlayer.*` | nested, or none |
| torchspec | lightseekorg/TorchSpec, tools/convert_to_hf.py | key `_torchspec_version` | `midlayer.*`, with --vllm `layers.0.*` | either, or none |
| speculators | vllm-project/speculators, models/eagle3 | key `speculators_model_type` | `layers.0.*` | top level |
| modelopt | NVIDIA/Model-Optimizer, export/plugins/hf_spec_export.py | its keys in `eagle_config` | `layers.0.*` | nested |
| automodel | NVIDIA-NeMo/Automodel, components/speculative/eagle | `LlamaEagle3DraftModel`, `model.` | `model.layers.0.*` | none |

Ids at the top level are HF indices, those nested in `eagle_config` one lower (layouts.foreign_layer_ids); TorchSpec's own
use of the top level was not found in its sources, so there that reading is inferred. Automodel copies the target's whole
config, its number of layers included, and does not save the layers that it was told to read: the default is assumed.
"""

import math
from collections.abc import Iterable
from typing import Any

from eagle_hf.head.layouts import ARCHITECTURE, LAYER_IDS_KEY, foreign_layer_ids

DIALECTS = ("eagle_hf", "authors", "specforge", "torchspec", "speculators", "modelopt", "automodel")

MODELOPT_KEYS = {
    "use_input_layernorm_in_first_layer",
    "use_last_layernorm",
    "use_mtp_layernorm",
    "next_layer_regular",
    "parallel_draft_step",
    "parallel_draft_heads_num_layers",
}
OUR_NORMS = {
    "use_input_layernorm_in_first_layer": True,
    "use_last_layernorm": True,
    "use_mtp_layernorm": False,
}
LARGEST = {
    "vocab_size": 2**24,
    "draft_vocab_size": 2**24,
    "num_aux_hidden_states": 64,
}  # else 2^31: sizes are held against the weights later
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "num_hidden_layers",
    "draft_vocab_size",
    "target_hidden_size",
    "num_aux_hidden_states",
)
NUMBERS = ("rms_norm_eps", "initializer_range", "attention_dropout")
FLAGS = (
    "attention_bias",
    "mlp_bias",
    "use_cache",
    "norm_before_residual",
    "norm_before_fc",
    "fc_norm",
    "norm_output",
)
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
DTYPES = ("float16", "bfloat16", "float32", "float64")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
TEXT_ONLY_ROPE = (
    "mrope_section",
    "mrope_interleaved",
)  # three position axes, which are one in text
SCALES = (
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".qweight",
    ".weight_packed",
    ".weight_zero_point",
    ".scales",
)
HEADS_OWN = (
    "draft_vocab_size",
    "target_hidden_size",
    "num_aux_hidden_states",
    "norm_before_residual",
    "norm_before_fc",
    "fc_norm",
    "norm_output",
)
NEVER_LOADED = (
    "embed_tokens.weight",
    "verifier_lm_head.weight",
    "verifier_norm.weight",
)  # the target's own, saved along


def recognise(config: dict[str, Any], names: Iterable[str]) -> str:
    """The dialect of a config.json and of the names of the tensors beside it (none: by the config alone).

    What is no EAGLE-3 head of one Llama layer is a ValueError that says what it looks like.
    """
    names = set(names)
    other = _something_else(config, names)
    if other:
        raise ValueError(f"this is no EAGLE-3 head that can be opened here but looks like {other}")
    nested, architectures = _table(config, "eagle_config"), _architectures(config)
    if "eagle_hf" in config:
        return "eagle_hf"
    if "speculators_model_type" in config or "transformer_layer_config" in config:
        return "speculators"
    if "_torchspec_version" in config:
        return "torchspec"
    if "LlamaEagle3DraftModel" in architectures or any(name.startswith("model.") for name in names):
        return "automodel"
    if MODELOPT_KEYS & set(nested):
        return "modelopt"
    if any(name.startswith("layers.0.") for name in names):
        return "modelopt" if nested else "torchspec"
    return "specforge" if nested or ARCHITECTURE in architectures else "authors"


def _something_else(config: dict[str, Any], names: set[str]) -> str | None:
    """What this is, if it is no head of ours to open."""
    kind, nested = config.get("speculators_model_type", "eagle3"), _table(config, "eagle_config")
    if "peft_type" in config or any(".lora_A." in name or ".lora_B." in name for name in names):
        return "a PEFT adapter; merge it into its head: eagle-hf merge --head HEAD --adapter ADAPTER --out NEW_FOLDER"
    if kind != "eagle3":
        return f"a speculators model of type {_short(kind)}"
    if "dflash_config" in config or any("DFlash" in name for name in _architectures(config)):
        return "a DFlash drafter"
    if config.get("parallel_drafting") is True or "mask_hidden" in names:
        return "a P-EAGLE head, which drafts all tokens in one pass"
    if any("parallel_draft_heads." in name for name in names) or nested.get(
        "parallel_draft_step"
    ) not in (None, 0, 1):
        return "a head with Medusa heads beside it"
    if any(name.endswith(SCALES) for name in names):
        return "a quantised head; give the unquantised one"
    if nested.get("use_aux_hidden_state") is False:
        return "an EAGLE-1 or EAGLE-2 head (use_aux_hidden_state is false)"
    for key, ours in OUR_NORMS.items():
        if nested.get(key, ours) not in (None, ours):
            return (
                f"a ModelOpt head with other norms than EAGLE-3's ({key} is {_short(nested[key])})"
            )
    return _other_model(names) if names else None


def _other_model(names: set[str]) -> str | None:
    names = {name.removeprefix("model.") for name in names}
    deep = sorted(
        name for name in names if name.startswith("layers.") and not name.startswith("layers.0.")
    )
    heads = any(name.endswith(".hidden_norm.weight") for name in names)
    if "fc.weight" in names and heads and deep:
        return f"an EAGLE-3 head of several layers (it holds {deep[0]}); heads of one layer are supported"
    if any(".kv_a_proj_with_mqa." in name or ".q_a_proj." in name for name in names):
        return "an EAGLE-3 head with latent attention (MLA)"
    if any(".experts." in name for name in names):
        return "a head or model with experts (MoE)"
    if heads and any(".q_norm." in name or ".k_norm." in name for name in names):
        return "an EAGLE-3 head with normed queries and keys (Qwen3's attention)"
    if heads or any(name.startswith("midlayer.") for name in names):
        return None
    if "fc.weight" in names:
        return "an EAGLE-1 or EAGLE-2 head (fc without hidden_norm)"
    if any(name.startswith("layers.") or "embed_tokens" in name for name in names):
        return "a whole language model; as a draft model it goes to WindowedDraft"
    return f"something else: none of its tensors is a head's, the first is {min(names)!r:.80}"


def translate_config(config: dict[str, Any], dialect: str) -> dict[str, Any]:
    """The keyword arguments of Eagle3Config for a config.json in this dialect; keys that a head has no use for are left out.

    ValueError for values of the wrong kind or beyond reason, each by its name.
    """
    inner = config
    if dialect == "speculators":
        layer = _table(config, "transformer_layer_config")
        inner = {
            **{key: layer[key] for key in layer if key not in HEADS_OWN},
            **{key: config[key] for key in HEADS_OWN if key in config},
        }
    fields = {key: _size(key, inner[key]) for key in SIZES if inner.get(key) is not None}
    fields |= {key: _number(key, inner[key]) for key in NUMBERS if inner.get(key) is not None}
    fields |= {key: _flag(key, inner[key]) for key in FLAGS if inner.get(key) is not None}
    fields |= {key: _token(key, inner[key]) for key in TOKENS if key in inner}
    if isinstance(inner.get("hidden_act"), str):
        fields["hidden_act"] = inner["hidden_act"]
    fields |= {"rope_parameters": translate_rope(inner)} | _dtype(config, inner)
    if (
        dialect == "speculators"
    ):  # vLLM reads an absent flag as true; speculators itself always writes it
        fields.setdefault("norm_before_residual", True)
    fields["eagle_hf"] = extras = _extras(config, inner, dialect)
    if dialect == "automodel" and fields.get("num_hidden_layers", 1) > 1:
        extras["target_num_hidden_layers"] = fields.pop("num_hidden_layers")
    ids = extras.get("aux_layer_ids")
    if ids and fields.setdefault("num_aux_hidden_states", len(ids)) != len(ids):
        raise ValueError(
            f"{len(ids)} layer ids are named, but num_aux_hidden_states is {fields['num_aux_hidden_states']}; one id per state"
        )
    return fields


def _dtype(config: dict[str, Any], inner: dict[str, Any]) -> dict[str, str]:
    named = [
        table[key]
        for table in (config, inner)
        for key in ("dtype", "torch_dtype")
        if table.get(key) is not None
    ]
    if named and named[0] not in DTYPES:
        raise ValueError(f"dtype is {_short(named[0])}; a head's weights are {', '.join(DTYPES)}")
    return {"dtype": named[0]} if named else {}


def _extras(config: dict[str, Any], inner: dict[str, Any], dialect: str) -> dict[str, Any]:
    """What stands under our own key: settings of ours, the layers that the head reads, the window it was trained with."""
    extras = dict(_table(config, "eagle_hf"))
    extras |= {
        key: _size(key, extras[key])
        for key in ("trained_length", "target_num_hidden_layers")
        if extras.get(key) is not None
    }
    window = _trained_window(inner) if dialect == "speculators" else None
    if window is not None:
        extras["window"] = [0, window]
    nested = {LAYER_IDS_KEY: _layer_ids(_table(config, "eagle_config"), LAYER_IDS_KEY)}
    ids = _layer_ids(extras, "aux_layer_ids") or foreign_layer_ids(
        _layer_ids(config, LAYER_IDS_KEY), nested
    )
    return extras if ids is None else extras | {"aux_layer_ids": ids}


def translate_rope(config: dict[str, Any]) -> dict[str, Any]:
    """RoPE in today's schema, from today's (`rope_parameters`) or the legacy one (`rope_theta`, `rope_scaling`).

    Where both are there, today's counts: a `rope_theta` beside it may be no more than a class's default (so ModelOpt found).
    """
    now, legacy = _table(config, "rope_parameters"), _table(config, "rope_scaling")
    rope = {
        key: _rope_value(key, value)
        for key, value in (now or legacy).items()
        if value is not None and key not in TEXT_ONLY_ROPE
    }
    kind = rope.pop("type", "default")
    kind = rope.get("rope_type", kind)
    kind = "default" if kind == "mrope" else kind
    if kind not in ROPE_TYPES:
        raise ValueError(f"the RoPE type is {_short(kind)}; known are {', '.join(ROPE_TYPES)}")
    if rope.pop("partial_rotary_factor", 1) != 1 or config.get("partial_rotary_factor") not in (
        None,
        1,
        1.0,
    ):
        raise ValueError(
            "partial_rotary_factor is not 1; RoPE over a part of the head's width is not implemented"
        )
    theta = rope.get("rope_theta", _number("rope_theta", config.get("rope_theta") or 10000.0))
    return {**rope, "rope_type": kind, "rope_theta": theta}


def translate_names(names: Iterable[str], dialect: str) -> dict[str, str | None]:
    """Our name of every tensor, None where it is knowingly not loaded: the target's embeddings, buffers that are recomputed.

    Names that are no head's stay as they are. Two tensors of one name, as `midlayer.*` beside `layers.0.*`, are a ValueError.
    """
    ours = {name: name if dialect == "eagle_hf" else _our_name(name) for name in names}
    seen: dict[str, str] = {}
    for name, own in ours.items():
        if own is not None and seen.setdefault(own, name) != name:
            raise ValueError(f"{seen[own]} and {name} are the same tensor, {own}; keep one of them")
    return ours


def _our_name(name: str) -> str | None:
    name = name.removeprefix("model.")
    if name in NEVER_LOADED or name.endswith("rotary_emb.inv_freq"):
        return None
    return "midlayer." + name.removeprefix("layers.0.") if name.startswith("layers.0.") else name


def _trained_window(layer: dict[str, Any]) -> int | None:
    """Tokens that the head's attention saw in training, where its config says that it was windowed."""
    kinds = layer.get("layer_types")
    windowed = (
        kinds[:1] == ["sliding_attention"]
        if isinstance(kinds, list)
        else layer.get("use_sliding_window", True)
    )
    return (
        _size("sliding_window", layer["sliding_window"])
        if windowed is True and layer.get("sliding_window") is not None
        else None
    )


def _architectures(config: dict[str, Any]) -> list[str]:
    names = config.get("architectures") or []
    return [str(name) for name in names] if isinstance(names, list) else []


def _table(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{key} is {_short(value)}; needed is a table of keys and values")
    return value or {}


def _size(key: str, value: Any) -> int:
    most = LARGEST.get(key, 2**31)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{key} is {_short(value)}; needed is an integer from 1 to {most}")
    return value


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not -1e30 < value < 1e30:
        raise ValueError(f"{key} is {_short(value)}; needed is a number")
    return value


def _flag(key: str, value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{key} is {_short(value)}; needed is true or false")
    return value


def _token(key: str, value: Any) -> int | list[int] | None:
    ids = value if isinstance(value, list) else [value]
    if value is not None and any(
        type(token) is not int or not -1 <= token < 2**31 for token in ids
    ):
        raise ValueError(f"{key} is {_short(value)}; needed is a token id or a list of them")
    return value


def _rope_value(key: str, value: Any) -> Any:
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, list):
        return [_number(f"RoPE's {key}", part) for part in value]
    return _number(f"RoPE's {key}", value)


def _layer_ids(table: dict[str, Any], key: str) -> list[int] | None:
    ids = table.get(key)
    if ids is not None and (
        not isinstance(ids, list)
        or any(type(index) is not int or not 0 <= index < 2**16 for index in ids)
    ):
        raise ValueError(f"{key} is {_short(ids)}; needed is a list of layers' numbers")
    return ids


def _short(value: Any) -> str:
    """A hostile value for an error message: an integer of thousands of digits cannot even be printed."""
    if type(value) is int and abs(value) >= 2**64:
        return f"an integer of {int(math.log10(2) * value.bit_length()) + 1} digits"
    return (
        f"{value!r:.40}"
        if not isinstance(value, (list, dict))
        else f"a {type(value).__name__} of {len(value)}"
    )
