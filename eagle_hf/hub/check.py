"""What every engine will do with a saved head, and why it would be slow, wrong or refused: config.json and weights, key by key.

    print(check("someone/their-head", target="someone/their-target").text())

What the engines do was read from their sources, or seen by running them; findings.py names the versions. The rules are in
check_config.py, check_layers.py, check_weights.py, check_vocabulary.py and check_target.py; fix.py writes a folder without the errors.
"""

from dataclasses import replace
from pathlib import Path

from eagle_hf.hub import check_config, check_target, check_weights
from eagle_hf.hub.check_layers import layer_ids
from eagle_hf.hub.check_vocabulary import vocabulary_map
from eagle_hf.hub.findings import OPENVINO, SGLANG, Finding, Report, report
from eagle_hf.hub.saved import SavedHead, Target, open_saved, open_target

RULES = (*check_weights.RULES, vocabulary_map, *check_config.RULES, layer_ids, *check_target.RULES)


def check(folder_or_id: str | Path, target=None, **hub_kwargs) -> Report:
    """What eagle_hf, vLLM, SGLang, llama.cpp and OpenVINO will do with the head in a folder or hub repository, in any dialect.

    target: its folder or hub id, "smollm2", a .gguf file, a model or a config; without one, vocabulary, RoPE, lengths, special tokens
    and embeddings are not compared. hub_kwargs: revision, token, cache_dir, subfolder, ... for the head; token and cache_dir for the
    target too. No pickle is executed. ValueError or OSError only where there is no config.json to read.
    """
    facts = None if target is None else open_target(target, **hub_kwargs)
    with open_saved(folder_or_id, **hub_kwargs) as head:
        return report(str(folder_or_id), head.dialect, facts and facts.name, examine(head, facts))


def examine(head: SavedHead, target: Target | None) -> list[Finding]:
    """Everything the rules find, in their order."""
    findings = [finding for rule in RULES for finding in rule(head, target)]
    if (
        head.dialect == "speculators"
    ):  # of engines that do not load the format there is no more to say
        findings = [
            replace(
                finding,
                engines=tuple(engine for engine in finding.engines if _loads(engine, finding)),
            )
            for finding in findings
        ]
    return [finding for finding in findings if finding.engines]


def _loads(engine: str, finding: Finding) -> bool:
    return engine not in (SGLANG, OPENVINO) or finding.key == "speculators_config"
