"""Run every rule over a head."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from eagle_hf.hub.check import (
    architecture,
    embeddings,
    launching,
    layer_ids,
    rope,
    sizes,
    target_fit,
    variants,
    vocabulary,
    weights,
)
from eagle_hf.hub.check.findings import Finding, Findings, engine_names
from eagle_hf.hub.check.report import Report, make_report
from eagle_hf.hub.engines import SERVERS
from eagle_hf.hub.saved_head import SavedHead, open_saved_head
from eagle_hf.hub.saved_target import Target, open_target

Rule = Callable[[SavedHead, Target | None], Findings]

# The order is that of findings of one level: what a reader should look at first.
RULES: tuple[Rule, ...] = (
    # the weight files
    weights.check_opening,
    weights.check_files,
    weights.check_names,
    weights.check_prefixes,
    weights.check_shapes,
    embeddings.check_lm_head,
    weights.check_values,
    embeddings.check_embeddings,
    vocabulary.check_vocabulary_map,
    # config.json: class and format, sizes, variants
    architecture.check_architecture,
    architecture.check_speculators_format,
    sizes.check_layer_count,
    sizes.check_sizes,
    sizes.check_draft_vocabulary_size,
    sizes.check_aux_states,
    variants.check_norms,
    variants.check_biases,
    variants.check_activation,
    variants.check_tied_embeddings,
    # how it is launched
    launching.check_window,
    launching.check_tree,
    variants.check_quantization,
    architecture.check_remote_code,
    launching.check_launch_flags,
    # which layers are read, and what must be the target's
    layer_ids.check_layer_ids,
    target_fit.check_fit,
    rope.check_rope_schemas,
    rope.check_rope_against_target,
    target_fit.check_length,
    target_fit.check_special_tokens,
    target_fit.check_chat_template,
)


def check(folder_or_id: str | Path, target: Any = None, **hub_kwargs: Any) -> Report:
    """Report what eagle_hf, vLLM, SGLang, llama.cpp and OpenVINO will do with a head.

    No pickle is executed, and whatever the folder holds ends in a finding.

    Args:
        folder_or_id: Folder or hub id of the head, in any dialect.
        target: The target's folder or hub id, "smollm2", a .gguf file, a model or a config. Without
            one, vocabulary, RoPE, lengths, special tokens and embeddings are not compared.
        hub_kwargs: Options of the Hub for the head: revision, token, cache_dir, subfolder, ...
            Token and cache_dir are the target's too.

    Returns:
        The report; `report.text()` is the table, and `report.failed` says whether an engine
        refuses the head or gets it wrong.

    Raises:
        ValueError, OSError: There is no config.json to read, or no such target.
    """
    facts = None if target is None else open_target(target, **hub_kwargs)
    with open_saved_head(folder_or_id, **hub_kwargs) as head:
        name = None if facts is None else facts.name
        return make_report(str(folder_or_id), head.dialect, name, run_rules(head, facts))


def run_rules(head: SavedHead, target: Target | None) -> list[Finding]:
    """Everything the rules find, in their order."""
    findings = []
    for rule in RULES:
        findings += rule(head, target)
    if head.dialect != "speculators":
        return findings
    # Engines that do not load the format have one finding, about the format.
    concerned = []
    for finding in findings:
        engines = _loading_engines(finding)
        if engines:
            concerned.append(replace(finding, engines=engines))
    return concerned


def _loading_engines(finding: Finding) -> tuple[str, ...]:
    """The finding's engines without those that do not load the speculators format.

    Of these there is no more to say than the one finding about the format itself.
    """
    if finding.key == "speculators_config":
        return finding.engines
    strangers = engine_names(engine for engine in SERVERS if not engine.loads_speculators)
    return tuple(name for name in finding.engines if name not in strangers)
