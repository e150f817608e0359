"""Fix a head: refuse what would be a guess, write the rest, and check what was written."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file

from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.sidecars import LASTING, copy_sidecars, sidecars
from eagle_hf.hub.check.checking import run_rules
from eagle_hf.hub.check.embeddings import check_embeddings
from eagle_hf.hub.check.findings import Finding
from eagle_hf.hub.check.layer_ids import NESTED_KEY
from eagle_hf.hub.fix.config import adopt_target_facts, fix_config, list_differences
from eagle_hf.hub.fix.weights import fix_weights
from eagle_hf.hub.layer_ids import (
    find_depth,
    find_family,
    nested_ids,
    read_nested_ids,
    read_top_level_ids,
    trained_layers,
)
from eagle_hf.hub.saved_head import SavedHead, open_saved_head
from eagle_hf.hub.saved_target import Target, open_target

# Keys whose two values may contradict each other. Opening the head would silently prefer one.
CONTRADICTIONS = ("rope_theta", "rope_scaling")


def fix(
    folder_or_id: str | Path, out: str | Path, target: Any = None, **hub_kwargs: Any
) -> list[str]:
    """Write a corrected copy of a head.

    The copy opens with from_pretrained and passes `check`, but for limits of an engine that no
    folder can change. Nothing is written where a correction would be a guess.

    Args:
        folder_or_id: Folder or hub id of the head.
        out: The folder to make.
        target: As of `check`.
        hub_kwargs: As of `check`.

    Returns:
        What was changed, a line each.

    Raises:
        ValueError: `out` exists, or a correction would be a guess; the message lists those.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already; choose a new folder, nothing is overwritten")
    facts = None if target is None else open_target(target, **hub_kwargs)
    with open_saved_head(folder_or_id, **hub_kwargs) as head:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`, so that the last step is a rename on one file system: whole or not there.
        with TemporaryDirectory(dir=out.parent, prefix=".fixing-") as scratch:
            # 1) refuse what cannot be told
            _refuse(_find_guesses(head, facts), folder_or_id)
            # 2) write the corrected head
            fixed = Path(scratch, "head")
            changes = _write_fixed(head, facts, Path(scratch, "raw"), fixed)
            # 3) check it as any head
            _refuse(_find_remaining_errors(fixed, facts), folder_or_id)
            # 4) take along what claims nothing of the weights, and put the folder in its place
            if Path(folder_or_id).is_dir():
                _copy_lasting_sidecars(Path(folder_or_id), fixed)
            fixed.rename(out)
    return changes


def _find_guesses(head: SavedHead, target: Target | None) -> list[Finding]:
    """The findings that could only be corrected by a guess."""
    guesses = [finding for finding in run_rules(head, target) if _is_guess(head, finding)]
    for finding in check_embeddings(head, target):
        if finding.level == "warning":  # without the target nobody can tell whose they are
            guesses.append(finding)
    return guesses


def _is_guess(head: SavedHead, finding: Finding) -> bool:
    """Whether a correction would choose between two things that the head says of itself."""
    if finding.level != "error":
        return False
    if finding.key in CONTRADICTIONS:
        return True
    has_two_lists = bool(read_top_level_ids(head) and read_nested_ids(head))
    is_settled = "aux_layer_ids" in head.table("eagle_hf")
    is_about_layers = finding.key in (LAYER_IDS_KEY, NESTED_KEY)
    return is_about_layers and has_two_lists and not is_settled


def _find_remaining_errors(folder: Path, target: Target | None) -> list[Finding]:
    """What is still wrong with the written head, and is no engine's own limit."""
    with open_saved_head(folder) as fixed:
        findings = run_rules(fixed, target)
    return [finding for finding in findings if finding.level == "error" and not finding.limit]


def _refuse(findings: list[Finding], source: str | Path) -> None:
    """Raise a ValueError that lists the findings, if there are any."""
    if not findings:
        return
    lines = [f"{source} cannot be mended without a guess, so nothing is written:"]
    for finding in findings:
        lines.append(f"- {finding.key}: {finding.happens}; {finding.remedy}")
    raise ValueError("\n".join(lines))


def _copy_lasting_sidecars(source: Path, folder: Path) -> None:
    """Copy tokenizer, plan and the like; figures stay behind, because the head is another one."""
    names = sidecars(source, LASTING)
    copy_sidecars({name: source / name for name in names}, folder)


def _write_fixed(head: SavedHead, target: Target | None, raw: Path, fixed: Path) -> list[str]:
    """Save the corrected head to `fixed`, by way of the folder `raw`; what was changed."""
    # 1) a folder in the head's own dialect that can be opened
    weights, changes = fix_weights(head, target)
    config = fix_config(head, weights)
    raw.mkdir()
    save_file(weights, raw / "model.safetensors", metadata={"format": "pt"})
    (raw / "config.json").write_text(json.dumps(config), encoding="utf-8")
    # 2) our layout of it, with its target's facts
    opened = _open_fixed(raw, head.source)
    layers = find_depth(head, target)
    family = find_family(target)
    trained = trained_layers(head, layers, family)
    adopt_target_facts(opened.config, target, trained, layers)
    opened.save_pretrained(fixed)
    # 3) the layer ids as SGLang counts them for this target
    file = fixed / "config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    if target is not None and trained is not None and LAYER_IDS_KEY in written:
        # Which list SGLang needs depends on the target's class, and some layers have none.
        nested = nested_ids(trained, layers, family)
        written["eagle_config"] = {"use_aux_hidden_state": True}
        if nested:
            written["eagle_config"][LAYER_IDS_KEY] = nested
        file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return changes + list_differences(head.raw, written)


def _open_fixed(folder: Path, source: str) -> Eagle3DraftHead:
    """Open the corrected head; errors name the folder that the user gave."""
    try:
        head = Eagle3DraftHead.from_pretrained(folder)
    except ValueError as error:
        reason = str(error).replace(str(folder), source)
        raise ValueError(f"{source} cannot be mended: {reason}") from error
    head.name_or_path = ""  # saving would look for sidecars in this folder, and compare weights
    return head
