"""Variants of a head that not every engine computes: norms, biases, activations, and the like."""

from eagle_hf.hub.check.findings import Findings, error, shown, warning
from eagle_hf.hub.engines import LLAMA_CPP, SERVERS, SGLANG
from eagle_hf.hub.saved_head import SavedHead
from eagle_hf.hub.saved_target import Target

NORMS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
BIASES = {"self_attn": "attention_bias", "mlp": "mlp_bias"}  # part of the layer -> its setting


def check_norms(head: SavedHead, target: Target | None) -> Findings:
    """Check norms that an engine lacks: it runs the head without them, and its drafts are wrong."""
    for flag in NORMS:
        if head.config.get(flag) is True:
            yield error(
                flag,
                [engine for engine in SERVERS if flag in engine.ignored],
                happens="ignores the flag and computes another head: drafts are hardly accepted",
                remedy=f"serve it with {_supporting_servers(flag)}, or train without",
                limit=True,
            )
    # Nothing is lost silently here: the weights cannot be converted at all.
    if head.config.get("fc_norm") is True:
        yield error(
            "fc_norm",
            [LLAMA_CPP],
            happens="the converter stops at fc_norm.*, which it cannot map",
            remedy=f"serve it with {_supporting_servers('fc_norm')}, or train without",
            limit=True,
        )


def _supporting_servers(setting: str) -> str:
    """The servers that honour a setting, as "vLLM, SGLang or llama.cpp"."""
    names = [engine.name for engine in SERVERS if setting not in engine.unsupported]
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def check_biases(head: SavedHead, target: Target | None) -> Findings:
    """Check for biases in the weights, whatever the config says of them."""
    for part, setting in BIASES.items():
        # The tensors decide: a config may be silent about them, or wrong.
        if any(part in name and name.endswith("_proj.bias") for name in head.tensors):
            yield error(
                f"{part}.*.bias",
                [engine for engine in SERVERS if setting in engine.ignored],
                happens="builds the layer without biases: they are left out silently, or loading "
                "stops",
                remedy="serve it with vLLM, or train without",
                limit=True,
            )


def check_activation(head: SavedHead, target: Target | None) -> Findings:
    """Check for an activation that engines do not have."""
    name = head.config.get("hidden_act", "silu")
    if name != "silu":
        yield error(
            "hidden_act",
            [engine for engine in SERVERS if engine.has_only_silu],
            happens=f"{shown(name)} is not silu, the only one there: refused, or another head is "
            "computed",
            remedy="train with silu",
            limit=True,
        )


def check_tied_embeddings(head: SavedHead, target: Target | None) -> Findings:
    """Check that embeddings and LM head are not tied: they are the target's and the head's."""
    if head.config.get("tie_word_embeddings") is True:
        yield error(
            "tie_word_embeddings",
            [SGLANG],
            happens="true puts the target's embeddings in the place of the head's LM head, "
            "silently",
            remedy="write false",
            source="sglang#27908",
        )


def check_quantization(head: SavedHead, target: Target | None) -> Findings:
    """Check quantization_config, the head's own and the one that it inherits."""
    if head.raw.get("quantization_config"):
        yield error(
            "quantization_config",
            SERVERS,
            happens="linear layers are built for quantised weights, which this head does not hold: "
            "loading stops, or the weights are misread",
            remedy="remove it, unless the tensors are quantised",
            source="sglang#28196",
        )
    # SGLang gives the draft the target's quantisation.
    if target and target.config.get("quantization_config"):
        yield warning(
            "quantization_config",
            [SGLANG],
            happens="the target is quantised, and the draft inherits that unless told otherwise: "
            "loading stops, or drafts are noise",
            remedy="launch with --speculative-draft-model-quantization unquant",
            source="sglang#28196",
        )
