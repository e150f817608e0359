"""The config.json of every layout that a head is exported to."""

from dataclasses import fields
from typing import Any

from transformers import LlamaConfig, PretrainedConfig

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.dialects import HEADS_OWN
from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.hub.engines import SERVER_OF_KEY, SERVERS, SPECULATORS_VERSION, VLLM
from eagle_hf.hub.export.layer_ids import engine_layer_ids
from eagle_hf.hub.export.support import check_engine

LAYOUTS = ("speculators", *(engine.key for engine in SERVERS))

# Keys at the top of the speculators format. A reader takes num_aux_hidden_states from there too,
# but vLLM takes it from the layer's config alone, so that is where it is written.
TOP_LEVEL_KEYS = tuple(key for key in HEADS_OWN if key != "num_aux_hidden_states")
_LLAMA_FIELDS = {field.name for field in fields(LlamaConfig)}
_COMMON_FIELDS = {field.name for field in fields(PretrainedConfig)}
# Keys of the layer's config. vLLM reads it without defaults, so all of Llama's are written.
LAYER_KEYS = (
    "model_type",
    "rope_theta",
    "rope_scaling",
    "num_aux_hidden_states",
    *sorted(_LLAMA_FIELDS - _COMMON_FIELDS),
)


def layout_config(
    config: Eagle3Config,
    to: str,
    target_id: str | None = None,
    target: PretrainedConfig | None = None,
) -> dict[str, Any]:
    """The config.json of a head for one of `LAYOUTS`; arguments and errors as of `export_head`."""
    # The speculators format is a second layout of vLLM's.
    engine = VLLM if to == "speculators" else SERVER_OF_KEY[to]
    check_engine(config, engine)
    ids = engine_layer_ids(config, engine, target)
    if to == "speculators":
        return speculators_config(config, target_id, target) | ids
    written = config.to_diff_dict()
    written.pop(LAYER_IDS_KEY, None)
    written["eagle_config"] = {"use_aux_hidden_state": True} | ids.pop("eagle_config", {})
    return written | ids


def speculators_config(
    config: Eagle3Config, target_id: str | None, target: PretrainedConfig | None = None
) -> dict[str, Any]:
    """The config of vllm-project/speculators, layer ids aside.

    There is no model_type at the top: vLLM recognises the format by that. norm_before_residual is
    always there, since absent it is true to vLLM and false to speculators. The proposal is a chain
    as long as the head's tree is deep.

    Args:
        config: The head's.
        target_id: What vLLM serves when it is given this folder alone.
        target: The target's config, for the names of its classes.

    Raises:
        ValueError: There is no `target_id`.
    """
    if not target_id:
        raise ValueError(
            "the speculators format names the target; give its hub id or folder: --target"
        )
    written = config.to_dict()
    proposal = {
        "proposal_type": "greedy",
        "speculative_tokens": config.tree.depth,
        "verifier_accept_k": 1,
        "accept_tolerance": 0.0,
    }
    classes = None if target is None else target.architectures
    verifier = {"name_or_path": str(target_id), "architectures": list(classes or [])}
    top_level = {key: written[key] for key in TOP_LEVEL_KEYS}
    layer = {key: written[key] for key in LAYER_KEYS}
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": SPECULATORS_VERSION,
        "tie_word_embeddings": False,
        **top_level,
        "transformer_layer_config": layer,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": verifier,
        },
    }
