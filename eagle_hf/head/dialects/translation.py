"""A foreign head's config and tensor names in our words."""

from collections.abc import Iterable
from typing import Any

from eagle_hf.head.dialects.values import (
    check_flag,
    check_number,
    check_rope_value,
    check_size,
    check_token,
    get_layer_ids,
    get_table,
    shorten,
)
from eagle_hf.head.layouts import LAYER_IDS_KEY, foreign_layer_ids

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
# three position axes, which are one in text
TEXT_ONLY_ROPE = ("mrope_section", "mrope_interleaved")
# what speculators writes at the top level, beside the layer's own table
HEADS_OWN = (
    "draft_vocab_size",
    "target_hidden_size",
    "num_aux_hidden_states",
    "norm_before_residual",
    "norm_before_fc",
    "fc_norm",
    "norm_output",
)
# the target's own tensors, which some writers save along
NEVER_LOADED = ("embed_tokens.weight", "verifier_lm_head.weight", "verifier_norm.weight")


def translate_config(config: dict[str, Any], dialect: str) -> dict[str, Any]:
    """Translate a config.json into the keyword arguments of `Eagle3Config`.

    Keys that a head has no use for are left out.

    Args:
        config: The parsed file.
        dialect: What `recognise` says of it.

    Raises:
        ValueError: A value is of the wrong kind or beyond reason. The message names it.
    """
    inner = _merge_layer(config) if dialect == "speculators" else config

    # 1) plain settings
    values: dict[str, Any] = {}
    for keys, check in ((SIZES, check_size), (NUMBERS, check_number), (FLAGS, check_flag)):
        for key in keys:
            if inner.get(key) is not None:
                values[key] = check(key, inner[key])
    for key in TOKENS:
        if key in inner:  # an explicit null switches a default off
            values[key] = check_token(key, inner[key])
    if isinstance(inner.get("hidden_act"), str):
        values["hidden_act"] = inner["hidden_act"]
    values["rope_parameters"] = translate_rope(inner)
    dtype = _find_dtype(config, inner)
    if dtype is not None:
        values["dtype"] = dtype

    # 2) what the dialects mean otherwise
    if dialect == "speculators":
        # vLLM reads an absent flag as true; speculators itself always writes it
        values.setdefault("norm_before_residual", True)
    extras = _translate_extras(config, inner, dialect)
    if dialect == "automodel" and values.get("num_hidden_layers", 1) > 1:
        extras["target_num_hidden_layers"] = values.pop("num_hidden_layers")
    values["eagle_hf"] = extras

    # 3) one aux hidden state per layer id
    ids = extras.get("aux_layer_ids")
    if ids:
        states = values.setdefault("num_aux_hidden_states", len(ids))
        if states != len(ids):
            raise ValueError(
                f"{len(ids)} layer ids are named, but num_aux_hidden_states is {states}; "
                "one id per state"
            )
    return values


def _merge_layer(config: dict[str, Any]) -> dict[str, Any]:
    """One table of speculators' two; each setting comes from where its reader looks."""
    layer = get_table(config, "transformer_layer_config")
    merged = {key: value for key, value in layer.items() if key not in HEADS_OWN}
    for key in HEADS_OWN:
        if key in config:
            merged[key] = config[key]
    return merged


def _find_dtype(config: dict[str, Any], inner: dict[str, Any]) -> str | None:
    """The first dtype that is named, if one is."""
    for table in (config, inner):
        for key in ("dtype", "torch_dtype"):
            name = table.get(key)
            if name is None:
                continue
            if name not in DTYPES:
                raise ValueError(
                    f"dtype is {shorten(name)}; a head's weights are {', '.join(DTYPES)}"
                )
            return name
    return None


def _translate_extras(
    config: dict[str, Any], inner: dict[str, Any], dialect: str
) -> dict[str, Any]:
    """What stands under our own key `eagle_hf`: our settings, layer ids, the trained window."""
    extras = dict(get_table(config, "eagle_hf"))
    for key in ("trained_length", "target_num_hidden_layers"):
        if extras.get(key) is not None:
            extras[key] = check_size(key, extras[key])
    if dialect == "speculators":
        window = _trained_window(inner)
        if window is not None:
            extras["window"] = [0, window]
    ids = _find_layer_ids(config, extras)
    if ids is not None:
        extras["aux_layer_ids"] = ids
    return extras


def _find_layer_ids(config: dict[str, Any], extras: dict[str, Any]) -> list[int] | None:
    """The layers that the head reads, as HF indices: our own key's, else a foreign one's."""
    nested = {LAYER_IDS_KEY: get_layer_ids(get_table(config, "eagle_config"), LAYER_IDS_KEY)}
    ours = get_layer_ids(extras, "aux_layer_ids")
    if ours:
        return ours
    return foreign_layer_ids(get_layer_ids(config, LAYER_IDS_KEY), nested)


def _trained_window(layer: dict[str, Any]) -> int | None:
    """Tokens that the attention saw in training, where its config says that it was windowed."""
    kinds = layer.get("layer_types")
    if isinstance(kinds, list):
        is_windowed = kinds[:1] == ["sliding_attention"]
    else:
        is_windowed = layer.get("use_sliding_window", True) is True
    width = layer.get("sliding_window")
    if not is_windowed or width is None:
        return None
    return check_size("sliding_window", width)


def translate_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Translate RoPE into today's schema, `rope_parameters`.

    The legacy schema is `rope_theta` and `rope_scaling`. Where both are there, today's counts: a
    `rope_theta` beside it may be no more than a class's default, as ModelOpt found.

    Args:
        config: A config.json with either schema, or none.

    Raises:
        ValueError: A value is unknown, or such a RoPE is not implemented.
    """
    written = get_table(config, "rope_parameters")
    legacy = get_table(config, "rope_scaling")
    rope = {}
    for key, value in (written or legacy).items():
        if value is not None and key not in TEXT_ONLY_ROPE:
            rope[key] = check_rope_value(key, value)

    # older files say `type`
    kind = rope.pop("type", "default")
    kind = rope.get("rope_type", kind)
    if kind == "mrope":
        kind = "default"
    if kind not in ROPE_TYPES:
        raise ValueError(f"the RoPE type is {shorten(kind)}; known are {', '.join(ROPE_TYPES)}")

    inner_factor = rope.pop("partial_rotary_factor", 1)
    outer_factor = config.get("partial_rotary_factor")
    if inner_factor != 1 or outer_factor not in (None, 1, 1.0):
        raise ValueError(
            "partial_rotary_factor is not 1; "
            "RoPE over a part of the head's width is not implemented"
        )
    default_theta = check_number("rope_theta", config.get("rope_theta") or 10000.0)
    theta = rope.get("rope_theta", default_theta)
    return {**rope, "rope_type": kind, "rope_theta": theta}


def translate_names(names: Iterable[str], dialect: str) -> dict[str, str | None]:
    """Translate the names of tensors.

    Args:
        names: As they stand in the weight file.
        dialect: What `recognise` says of the head.

    Returns:
        Our name of each. None where the tensor is not loaded on purpose: the target's embeddings,
        buffers that are recomputed. Names that are no head's stay as they are.

    Raises:
        ValueError: Two tensors have one name, as `midlayer.*` beside `layers.0.*`.
    """
    translated: dict[str, str | None] = {}
    sources: dict[str, str] = {}
    for name in names:
        ours = name if dialect == "eagle_hf" else _translate_name(name)
        translated[name] = ours
        if ours is None:
            continue
        first = sources.setdefault(ours, name)
        if first != name:
            raise ValueError(f"{first} and {name} are the same tensor, {ours}; keep one of them")
    return translated


def _translate_name(name: str) -> str | None:
    name = name.removeprefix("model.")
    if name in NEVER_LOADED or name.endswith("rotary_emb.inv_freq"):
        return None
    if name.startswith("layers.0."):
        return "midlayer." + name.removeprefix("layers.0.")
    return name
