"""The names in config.json by which engines choose code: the class, the format, and remote code."""

from typing import Any

from eagle_hf.head.layouts import ARCHITECTURE
from eagle_hf.hub.check.findings import FIX, Findings, error, shown, warning
from eagle_hf.hub.engines import ENGINES, LLAMA_CPP, SERVERS, VLLM, Engine
from eagle_hf.hub.saved_head import SavedHead
from eagle_hf.hub.saved_target import Target


def check_architecture(head: SavedHead, target: Target | None) -> Findings:
    """Check the names of the draft's class and of its config's class."""
    if head.dialect == "speculators":
        return
    names = head.raw.get("architectures")
    kind = head.raw.get("model_type")
    if names != [ARCHITECTURE]:
        yield error(
            "architectures",
            [engine for engine in SERVERS if not _takes_class(engine, names)],
            happens=f"{shown(names)}: the draft's class is chosen by this name, which is no "
            "EAGLE-3 head's: another model is built, or none",
            remedy=f'write ["{ARCHITECTURE}"]',
        )
    if kind != "llama":
        yield error(
            "model_type",
            SERVERS,
            happens=f"{shown(kind)}: config.json is parsed by this name; an unknown one is "
            "refused, and another model's has other fields",
            remedy='write "llama"; a model_type of your own must not be saved',
            source="inferred",
        )


def _takes_class(engine: Engine, names: Any) -> bool:
    """Whether the engine takes `architectures` with this value for a head."""
    return any(names == [name] for name in engine.architectures)


def check_speculators_format(head: SavedHead, target: Target | None) -> Findings:
    """Check the format of vLLM's speculators library, which not every engine loads."""
    if head.dialect != "speculators":
        return
    yield error(
        "speculators_config",
        [engine for engine in SERVERS if not engine.loads_speculators],
        happens="has no support for the speculators format",
        remedy=f"write the layout that all engines load: {FIX}",
    )
    if head.raw.get("model_type") is not None:
        yield error(
            "model_type",
            [VLLM],
            happens="the speculators format is recognised only where there is no model_type at the "
            "top level",
            remedy="remove it; the layer's belongs into transformer_layer_config",
        )
    plan = head.table("speculators_config")
    if not _has_proposal(plan) or not _has_verifier(plan):
        yield error(
            "speculators_config",
            [VLLM],
            happens="stops with 'Invalid speculators config structure'",
            remedy="write proposal_methods[0].speculative_tokens and verifier.name_or_path: "
            "eagle-hf export HEAD --to speculators",
        )
    # Two defaults: the head is right on one of the two engines at most.
    if "norm_before_residual" not in head.raw:
        yield warning(
            "norm_before_residual",
            [VLLM, LLAMA_CPP],
            happens="absent, which in this format vLLM reads as true and llama.cpp as false",
            remedy="write it",
        )


def _has_proposal(plan: dict[str, Any]) -> bool:
    """Whether the first proposal method says how many tokens are drafted."""
    methods = plan.get("proposal_methods")
    # Nothing in a folder is trusted to be of the right type.
    if not isinstance(methods, list) or not methods:
        return False
    first = methods[0]
    return isinstance(first, dict) and bool(first.get("speculative_tokens"))


def _has_verifier(plan: dict[str, Any]) -> bool:
    """Whether the target is named."""
    verifier = plan.get("verifier")
    return isinstance(verifier, dict) and bool(verifier.get("name_or_path"))


def check_remote_code(head: SavedHead, target: Target | None) -> Findings:
    """Check for code that the config names: a head needs none."""
    if head.raw.get("auto_map"):
        yield warning(
            "auto_map",
            ENGINES,
            happens="names Python code in the repository, which runs under --trust-remote-code; a "
            "head needs none",
            remedy="remove it, and do not serve this folder with that flag",
        )
