"""Every way that people's heads went wrong, what the check must find, and what cannot be fixed.

The head proposes 24 of 31 tokens. Its target has 8 layers, so the default layers are 2, 4 and 5.
"""

import torch
from breaking import (
    EAGLE_HF,
    IDS,
    LLAMA_CPP,
    NESTED,
    OPENVINO,
    ROPE,
    SERVERS,
    SGLANG,
    VLLM,
    all_ones,
    as_ids,
    as_integers,
    beyond,
    error,
    half,
    nested,
    not_a_number,
    note,
    one_token_twice,
    put,
    random_embeddings,
    renamed,
    trained_on,
    unknown_tensor,
    vector,
    warning,
    whole,
    without,
    without_last,
    zero_embeddings,
)

OTHER = [1, 3, 6]  # layers that are not the default
NO_KEY = ("eagle_hf",)  # a head that was trained elsewhere
OTHER_ROPE = {"rope_theta": 1e4, "rope_parameters": ROPE | {"rope_theta": 1e4}}
LINEAR_ROPE = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}
HALF_FC = put("fc.weight", half)
EMBEDDED = put("embed_tokens.weight", random_embeddings)
NORMS = (
    "midlayer.hidden_norm.weight, midlayer.input_layernorm.weight, "
    "midlayer.post_attention_layernorm.weight and 1 more"
)

# How a head is broken, after the issue where it was reported.
BROKEN = {
    # the layer ids
    "sglang#25454 HF indices nested": warning(
        NESTED, [SGLANG], config=nested([2, 4, 5]), drop=NO_KEY
    ),
    "vllm#43671 outputs at the top level": warning(
        IDS, [VLLM, LLAMA_CPP], config={IDS: [1, 3, 4]}, drop=NO_KEY
    ),
    "one list in both places": error(
        NESTED, [SGLANG], config=nested(OTHER, **{IDS: OTHER}), drop=NO_KEY
    ),
    "nested ids alone": error(NESTED, [VLLM], config=nested([1, 3, 4]), drop=NO_KEY),
    "other layers at the top level alone": error(
        NESTED, [SGLANG], config=trained_on(OTHER) | {IDS: OTHER}
    ),
    "other layers": warning(
        IDS, [OPENVINO], config=nested([0, 2, 5], **trained_on(OTHER), **{IDS: OTHER})
    ),
    "vllm#50170 no ids": warning(IDS, [EAGLE_HF, *SERVERS], drop=NO_KEY),
    "ids beyond the target": error(IDS, [VLLM, EAGLE_HF], config={IDS: [2, 4, 8]}, drop=NO_KEY),
    "ids out of order": error(IDS, [VLLM, SGLANG], config=trained_on([5, 2, 4]) | {IDS: [5, 2, 4]}),
    "vllm#54526 fewer ids than states": error(IDS, [VLLM, SGLANG], config=trained_on([2, 4])),
    # states and sizes
    "vllm#54526 two states, not counted": error(
        "num_aux_hidden_states", [VLLM, SGLANG], drop=("num_aux_hidden_states",), weights=HALF_FC
    ),
    "two states": error(
        "num_aux_hidden_states",
        [LLAMA_CPP, OPENVINO],
        config=trained_on([2, 4]) | {"num_aux_hidden_states": 2},
        weights=HALF_FC,
    ),
    "no aux states": error(
        "eagle_config.use_aux_hidden_state",
        [VLLM],
        config={"eagle_config": {"use_aux_hidden_state": False}},
    ),
    "vllm#18906 another width": error(
        "target_hidden_size", [VLLM, SGLANG, EAGLE_HF], config={"target_hidden_size": 64}
    ),
    "no width": error("target_hidden_size", [VLLM, SGLANG], config={"target_hidden_size": None}),
    "a size of the wrong kind": error(
        "intermediate_size", [VLLM], config={"intermediate_size": "64"}
    ),
    "a wrong head_dim": error("midlayer.self_attn.q_proj.weight", SERVERS, config={"head_dim": 16}),
    "two layers": error(
        "num_hidden_layers", [VLLM, SGLANG, LLAMA_CPP], config={"num_hidden_layers": 2}
    ),
    "layers not counted": error("num_hidden_layers", [VLLM, SGLANG], drop=("num_hidden_layers",)),
    "EAGLE#249 another vocabulary": error(
        "vocab_size", [VLLM, SGLANG, LLAMA_CPP], config={"vocab_size": 40}
    ),
    "vllm#48894 sglang#6783 short": error(
        "max_position_embeddings", [VLLM, SGLANG], config={"max_position_embeddings": 128}
    ),
    # the class, and code
    "another class": error(
        "architectures", [SGLANG, OPENVINO], config={"architectures": ["LlamaForCausalLM"]}
    ),
    "a model_type of its own": error("model_type", [VLLM, SGLANG], config={"model_type": "eagle3"}),
    "code of its own": warning(
        "auto_map", [VLLM, SGLANG], config={"auto_map": {"AutoModel": "modeling.Head"}}
    ),
    # RoPE
    "speculators#574 RoPE dropped": warning(
        "rope_theta", [VLLM, SGLANG, EAGLE_HF], drop=("rope_theta", "rope_parameters")
    ),
    "sglang#21397 legacy RoPE alone": note("rope_parameters", [SGLANG], drop=("rope_parameters",)),
    "new RoPE alone": warning("rope_theta", [VLLM], drop=("rope_theta",)),
    "two bases": error("rope_theta", [VLLM, SGLANG], config={"rope_theta": 10000.0}),
    "two scalings": error("rope_scaling", [VLLM, SGLANG], config=LINEAR_ROPE),
    "another base than the target's": warning(
        "rope_theta", [VLLM, SGLANG], config=OTHER_ROPE, drop=NO_KEY
    ),
    "yarn": warning("rope_parameters.rope_type", [VLLM], config=YARN, drop=("rope_parameters",)),
    # what an engine ignores
    "norm_before_residual": error(
        "norm_before_residual", [SGLANG, OPENVINO], config={"norm_before_residual": True}
    ),
    "norm_output": error("norm_output", [LLAMA_CPP], config={"norm_output": True}),
    "fc_norm without tensors": error(
        "fc_norm.0.weight, fc_norm.1.weight, fc_norm.2.weight", [VLLM], config={"fc_norm": True}
    ),
    "fc_norm without the flag": error(
        "fc_norm.0.weight", [VLLM, SGLANG], weights=put("fc_norm.0.weight", vector)
    ),
    "a window": warning("sliding_window", [SGLANG], config={"sliding_window": 64}),
    "biases": error(
        "self_attn.*.bias", [SGLANG], weights=put("midlayer.self_attn.q_proj.bias", vector)
    ),
    "another activation": error(
        "hidden_act", [VLLM, SGLANG, LLAMA_CPP], config={"hidden_act": "gelu"}
    ),
    "sglang#28196 a quantisation block": error(
        "quantization_config", [VLLM, SGLANG], config={"quantization_config": {"bits": 8}}
    ),
    "another end of text": warning("eos_token_id", [VLLM], config={"eos_token_id": 7}),
    # LM head and embeddings
    "sglang#27908 no LM head": error(
        "lm_head.weight", [VLLM, SGLANG], weights=without("lm_head.weight")
    ),
    "sglang#27908 tied": error(
        "tie_word_embeddings", [SGLANG], config={"tie_word_embeddings": True}
    ),
    "TorchSpec#38 embeddings of zeros": error(
        "embed_tokens.weight", [VLLM], weights=put("embed_tokens.weight", zero_embeddings)
    ),
    "TorchSpec#38 random embeddings": error(
        "embed_tokens.weight", [VLLM, LLAMA_CPP], weights=EMBEDDED
    ),
    # the draft vocabulary
    "EAGLE#214 a map of another length": error(
        "d2t", [VLLM, SGLANG], weights=put("d2t", without_last)
    ),
    "EAGLE#249 no map": error("d2t", [VLLM, SGLANG], weights=without("d2t", "t2d")),
    "no t2d": note("t2d", [VLLM], weights=without("t2d")),
    "SpecForge#534 d2t rebuilt": error(
        "t2d", [VLLM, SGLANG, EAGLE_HF], weights=put("d2t", torch.zeros_like)
    ),
    "ids instead of offsets": error("d2t", [VLLM, SGLANG], weights=put("d2t", as_ids)),
    "ids beyond the vocabulary": error(
        "d2t", [VLLM, SGLANG, LLAMA_CPP], weights=put("d2t", beyond)
    ),
    "one token twice": error("d2t", [LLAMA_CPP], weights=put("d2t", one_token_twice)),
    "a map of floats": error("d2t", [SGLANG], weights=put("d2t", torch.Tensor.float)),
    "a map of int32": warning("d2t", [SGLANG], weights=put("d2t", torch.Tensor.int)),
    "a map at full vocabulary": error(
        "d2t", [VLLM], config={"draft_vocab_size": 31}, weights=whole
    ),
    "draft_vocab_size absent": error(
        "draft_vocab_size", [SGLANG, LLAMA_CPP, OPENVINO], drop=("draft_vocab_size",)
    ),
    "draft_vocab_size null": error("draft_vocab_size", [SGLANG], config={"draft_vocab_size": None}),
    # names and values of tensors
    "a missing tensor": error(
        "midlayer.hidden_norm.weight", SERVERS, weights=without("midlayer.hidden_norm.weight")
    ),
    "an unknown tensor": error(
        "extra.weight", [VLLM, LLAMA_CPP], weights=put("extra.weight", unknown_tensor)
    ),
    "layers.0.*": error("layers.0.*", [OPENVINO], drop=NO_KEY, weights=renamed("layers.0.")),
    "model.*": error(
        "model.layers.0.hidden_norm.weight",
        [VLLM, LLAMA_CPP],
        drop=NO_KEY,
        weights=renamed("model.layers.0."),
    ),
    "a wrong shape": error("fc.weight", [VLLM, SGLANG], weights=HALF_FC),
    "not a number": error(
        "norm.weight", [VLLM, EAGLE_HF], weights=put("norm.weight", not_a_number)
    ),
    "all zero": error(
        "lm_head.weight", [VLLM, EAGLE_HF], weights=put("lm_head.weight", torch.zeros_like)
    ),
    "norms of 1": warning(NORMS, [VLLM], weights=all_ones),
    "quantised tensors": error("fc.weight", [VLLM], weights=put("fc.weight", as_integers)),
    "float64": warning("fc.weight", [VLLM], weights=put("fc.weight", torch.Tensor.double)),
}
# Contradictions, and what is not there any more: no fix without a guess.
LOST = {
    "one list in both places",
    "ids beyond the target",
    "vllm#54526 fewer ids than states",
    "vllm#54526 two states, not counted",
    "vllm#18906 another width",
    "EAGLE#249 another vocabulary",
    "two bases",
    "two scalings",
    "fc_norm without tensors",
    "fc_norm without the flag",
    "biases",
    "sglang#27908 no LM head",
    "EAGLE#214 a map of another length",
    "EAGLE#249 no map",
    "SpecForge#534 d2t rebuilt",
    "ids beyond the vocabulary",
    "one token twice",
    "a missing tensor",
    "an unknown tensor",
    "a wrong shape",
    "not a number",
    "all zero",
    "quantised tensors",
    "no aux states",
}
# After a fix the weights are those of the sound head again.
SAME_WEIGHTS = {
    "model.*",
    "layers.0.*",
    "ids instead of offsets",
    "a map of floats",
    "no t2d",
    "TorchSpec#38 random embeddings",
    "another class",
}
