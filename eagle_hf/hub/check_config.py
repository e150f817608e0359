"""What the engines read in a head's config.json, key by key, and where they read different things.

A rule takes the head and its target (None where none was given) and yields findings. What needs the target is in check_target.py.
"""

from collections.abc import Iterator

from eagle_hf.head.layouts import ARCHITECTURE
from eagle_hf.hub.findings import (
    ENGINES,
    LLAMA_CPP,
    MEND,
    OPENVINO,
    SERVERS,
    SGLANG,
    VLLM,
    Finding,
    error,
    note,
    shown,
    warning,
)
from eagle_hf.hub.saved import SavedHead, Target

ALSO_NAMED = {  # other names of the class that an engine takes
    VLLM: ("Eagle3LlamaForCausalLM", "LlamaForCausalLM"),
    LLAMA_CPP: ("Eagle3LlamaForCausalLM", "LlamaForCausalLM"),
    OPENVINO: ("Eagle3LlamaForCausalLM",),
}
SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
NORMS = {  # norms that a head may have been trained with: who runs it without them, and who does not
    "norm_before_residual": ((SGLANG, OPENVINO), "vLLM or llama.cpp"),
    "norm_before_fc": ((OPENVINO,), "vLLM, SGLang or llama.cpp"),
    "fc_norm": ((OPENVINO,), "vLLM or SGLang"),
    "norm_output": ((LLAMA_CPP, OPENVINO), "vLLM or SGLang"),
}


def architecture(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    names, kind = head.raw.get("architectures"), head.raw.get("model_type")
    if head.dialect == "speculators":
        return
    if names != [ARCHITECTURE]:
        refused_by = tuple(
            engine
            for engine in SERVERS
            if not any(names == [other] for other in ALSO_NAMED.get(engine, ()))
        )
        happens = f"{shown(names)}: the draft's class is chosen by this name, which is no EAGLE-3 head's: another model is built, or none"
        yield error("architectures", refused_by, happens, f'write ["{ARCHITECTURE}"]')
    if kind != "llama":
        happens = f"{shown(kind)}: config.json is parsed by this name; an unknown one is refused, and another model's has other fields"
        yield error(
            "model_type",
            SERVERS,
            happens,
            'write "llama"; a model_type of your own must not be saved',
            "inferred",
        )


def speculators_format(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """The format of vLLM's speculators library, which the others do not load."""
    if head.dialect != "speculators":
        return
    happens = "has no support for the speculators format"
    yield error(
        "speculators_config",
        (SGLANG, OPENVINO),
        happens,
        f"write the layout that all engines load: {MEND}",
    )
    if head.raw.get("model_type") is not None:
        happens = "the speculators format is recognised only where there is no model_type at the top level"
        yield error(
            "model_type",
            (VLLM,),
            happens,
            "remove it; the layer's belongs into transformer_layer_config",
        )
    plan = head.table("speculators_config")
    methods, verifier = plan.get("proposal_methods"), plan.get("verifier")
    first = methods[0] if isinstance(methods, list) and methods else None
    if (
        not isinstance(first, dict)
        or not first.get("speculative_tokens")
        or not isinstance(verifier, dict)
        or not verifier.get("name_or_path")
    ):
        remedy = "write proposal_methods[0].speculative_tokens and verifier.name_or_path: eagle-hf export HEAD --to speculators"
        yield error(
            "speculators_config",
            (VLLM,),
            "stops with 'Invalid speculators config structure'",
            remedy,
        )
    if "norm_before_residual" not in head.raw:
        happens = "absent, which in this format vLLM reads as true and llama.cpp as false"
        yield warning("norm_before_residual", (VLLM, LLAMA_CPP), happens, "write it")


def one_layer(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    layers = head.config.get("num_hidden_layers")
    if layers is None:
        yield error(
            "num_hidden_layers",
            SERVERS,
            "absent: Llama's 32 layers are built, all but one of random weights",
            "write 1",
        )
    elif layers != 1:
        happens = f"{shown(layers)}: llama.cpp takes it for no head; of further layers SGLang norms the input by hidden_norm, vLLM by input_layernorm"
        yield error(
            "num_hidden_layers",
            SERVERS,
            happens,
            "write 1 if the weights hold one layer; several need those norms under both names",
        )


def sizes(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    for key in SIZES:
        if head.size(key) is None:
            happens = f"{shown(head.config.get(key))} is no size: Llama's default is taken, or loading stops"
            yield error(key, SERVERS, happens, "write the size that the weights have")
    wide, hidden = head.config.get("target_hidden_size", head.hidden_size), head.hidden_size
    if wide is None and "target_hidden_size" in head.config and head.dialect != "speculators":
        happens = "null, which is multiplied by the number of states: loading stops"
        yield error(
            "target_hidden_size",
            (VLLM, SGLANG),
            happens,
            "write the target's width, or leave the key out",
        )
    elif wide not in (None, hidden):
        own = "embed_tokens.weight" in head.tensors
        ending = "uses its own" if own else "has none of its own"
        happens = f"{shown(wide)} is not hidden_size {shown(hidden)}, so the target's embeddings do not fit, and the head {ending}"
        finding = warning if own else error
        yield finding(
            "target_hidden_size",
            SERVERS,
            happens,
            "train a head of the target's width; eagle_hf opens no other",
            "vllm#18906",
        )


def draft_vocabulary(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    rows, full, remedy = (
        head.draft_vocab_size,
        head.size("vocab_size"),
        "write the number of rows of lm_head",
    )
    if "draft_vocab_size" not in head.config:
        happens = "absent: SGLang and the OpenVINO export stop, llama.cpp converts the head as a plain Llama"
        yield error("draft_vocab_size", (SGLANG, LLAMA_CPP, OPENVINO), happens, remedy)
    elif head.config["draft_vocab_size"] is None and "lm_head.weight" in head.tensors:
        happens = "null: SGLang puts the target's LM head in the place of the head's own, the export stops"
        yield error("draft_vocab_size", (SGLANG, OPENVINO), happens, remedy)
    if rows and full and rows > full:
        yield error(
            "draft_vocab_size", SERVERS, f"{rows} is more than the target's {full} tokens", remedy
        )
    elif rows and full and rows < full:
        happens = f"refuses --speculative-use-rejection-sampling, which needs the whole vocabulary (here {rows} of {full}) and topk 1"
        yield note(
            "draft_vocab_size",
            (SGLANG,),
            happens,
            "leave the flag out, or train a head with the whole vocabulary",
        )


def aux_states(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    if head.num_aux != 3:
        happens = f"reads exactly three states of the target, not {head.num_aux}"
        yield error(
            "num_aux_hidden_states",
            (LLAMA_CPP, OPENVINO),
            happens,
            "serve it with vLLM or SGLang",
            limit=True,
        )
    fc, wide = head.tensors.get("fc.weight"), head.size("target_hidden_size") or head.hidden_size
    if (
        "num_aux_hidden_states" not in head.config
        and fc is not None
        and wide
        and len(fc.shape) == 2
        and fc.shape[1] != wide * head.num_aux
    ):
        happens = f"absent, so fc is built for {head.num_aux} states; the weights are for {fc.shape[1] / wide:g}"
        yield error(
            "num_aux_hidden_states",
            (VLLM, SGLANG),
            happens,
            "write how many states fc reads",
            "vllm#54526",
        )
    if head.table("eagle_config").get("use_aux_hidden_state") is False:
        happens = "false: the target's last state alone is fed, and fc is left out"
        yield error("eagle_config.use_aux_hidden_state", (VLLM, SGLANG), happens, "write true")


def norms(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Norms that an engine does not have: it runs the head without them, and its drafts are wrong."""
    for flag, (ignored_by, others) in NORMS.items():
        if head.config.get(flag) is True:
            happens = "ignores the flag and computes another head: drafts are hardly accepted"
            yield error(
                flag, ignored_by, happens, f"serve it with {others}, or train without", limit=True
            )
    if head.config.get("fc_norm") is True:
        happens = "the converter stops at fc_norm.*, which it cannot map"
        yield error(
            "fc_norm",
            (LLAMA_CPP,),
            happens,
            "serve it with vLLM or SGLang, or train without",
            limit=True,
        )


def biases(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    for part, ignored_by in (
        ("self_attn", (SGLANG, LLAMA_CPP, OPENVINO)),
        ("mlp", (SGLANG, LLAMA_CPP)),
    ):
        if any(part in name and name.endswith("_proj.bias") for name in head.tensors):
            happens = (
                "builds the layer without biases: they are left out silently, or loading stops"
            )
            yield error(
                f"{part}.*.bias",
                ignored_by,
                happens,
                "serve it with vLLM, or train without",
                limit=True,
            )


def activation(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    name = head.config.get("hidden_act", "silu")
    if name != "silu":
        happens = (
            f"{shown(name)} is not silu, the only one there: refused, or another head is computed"
        )
        yield error("hidden_act", (VLLM, SGLANG, LLAMA_CPP), happens, "train with silu", limit=True)


def tied(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    if head.config.get("tie_word_embeddings") is True:
        happens = "true puts the target's embeddings in the place of the head's LM head, silently"
        yield error("tie_word_embeddings", (SGLANG,), happens, "write false", "sglang#27908")


def window(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Windows: by the engines' own keys, and by ours, which no engine reads."""
    size, kinds = head.size("sliding_window"), head.config.get("layer_types")
    if (size and head.config.get("use_sliding_window", True) is not False) or (
        isinstance(kinds, list) and "sliding_attention" in kinds
    ):
        happens = f"the window of {shown(size)} tokens is ignored: beyond it the head sees more than it was trained with"
        remedy = f"SGLang: --speculative-draft-window-size {shown(size)}; else keep contexts short, or serve it with vLLM"
        yield warning("sliding_window", (SGLANG, LLAMA_CPP, OPENVINO), happens, remedy)
    trained = head.table("eagle_hf").get("trained_length")
    if trained:
        happens = f"trained on conversations of up to {shown(trained)} tokens; without a window acceptance decays beyond"
        remedy = f"SGLang: --speculative-draft-window-size {shown(trained)}; vLLM has no such flag"
        yield note("eagle_hf.trained_length", (VLLM, SGLANG), happens, remedy)


def trees(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    tree = head.table("eagle_hf").get("tree")
    if not isinstance(tree, dict) or tree.get("policy", "dynamic") != "chain":
        happens = "tree settings are read by eagle_hf alone: vLLM drafts chains, SGLang trees by its flags"
        yield note(
            "eagle_hf.tree",
            (VLLM, SGLANG),
            happens,
            "give SGLang its tree on the command line: eagle-hf serve-command HEAD --engine sglang",
        )


def quantisation(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    if head.raw.get("quantization_config"):
        happens = "linear layers are built for quantised weights, which this head does not hold: loading stops, or the weights are misread"
        yield error(
            "quantization_config",
            SERVERS,
            happens,
            "remove it, unless the tensors are quantised",
            "sglang#28196",
        )
    if target and target.config.get("quantization_config"):
        happens = "the target is quantised, and the draft inherits that unless told otherwise: loading stops, or drafts are noise"
        yield warning(
            "quantization_config",
            (SGLANG,),
            happens,
            "launch with --speculative-draft-model-quantization unquant",
            "sglang#28196",
        )


def code(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    if head.raw.get("auto_map"):
        happens = "names Python code in the repository, which runs under --trust-remote-code; a head needs none"
        yield warning(
            "auto_map", ENGINES, happens, "remove it, and do not serve this folder with that flag"
        )


def launching(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """What no folder shows: how it is launched."""
    happens = "EAGLE instead of EAGLE3 loads the head and accepts exactly 1.00 token per round, with no error"
    yield note("--speculative-algorithm", (SGLANG,), happens, "give EAGLE3", "sglang#21272")
    happens = 'the method is guessed only from a path that contains "eagle3"'
    yield note("--speculative-config", (VLLM,), happens, 'give "method": "eagle3" always')
    happens = "the converter takes the tokenizer and the number of layers from the target's folder"
    yield note(
        "--target-model-dir",
        (LLAMA_CPP,),
        happens,
        "convert_hf_to_gguf.py HEAD --target-model-dir TARGET",
    )


RULES = (
    architecture,
    speculators_format,
    one_layer,
    sizes,
    draft_vocabulary,
    aux_states,
    norms,
    biases,
    activation,
    tied,
    window,
    trees,
    quantisation,
    code,
    launching,
)
