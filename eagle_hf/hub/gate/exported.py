"""Export a head for an engine, by this package or by another program, and compare what came out.

The command of another program is given as one line, with {head}, {target} and {out} in it.
"""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import torch

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.hub.check import check
from eagle_hf.hub.export import export_head
from eagle_hf.target import aux_layer_ids

LAST_WORDS = 2000  # characters of a failed exporter
SETTINGS = ("norm_before_residual", "norm_output", "fc_norm", "draft_vocab_size", "rms_norm_eps")


def export(
    head: Eagle3DraftHead,
    out: Path,
    engine: str,
    target: Any,
    target_folder: str,
    with_: str | None,
) -> None:
    """Write the folder that an engine loads.

    Args:
        head: The head.
        out: The new folder.
        engine: As it is typed.
        target: The opened target.
        target_folder: Where it lies.
        with_: The command of another exporter; None for `export_head`.

    Raises:
        ValueError: The head is refused, or the command fails or writes no folder.
    """
    if with_ is None:
        export_head(head, out, engine, target_folder, target.config)
        return
    source = out.with_name(f"{out.name}-source")
    head.save_pretrained(source)
    names = {"{head}": str(source), "{target}": target_folder, "{out}": str(out)}
    words = []
    for word in shlex.split(with_):
        for name, value in names.items():
            word = word.replace(name, value)
        words.append(word)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"the exporter cannot be run ({error}): {shlex.join(words)}") from error
    if done.returncode != 0 or not out.is_dir():
        what = f"ended with status {done.returncode}" if done.returncode else f"wrote no {out}"
        raise ValueError(
            f"the exporter {what}: {shlex.join(words)}\n{(done.stdout + done.stderr)[-LAST_WORDS:]}"
        )


def compare_with_source(
    folder: Path, head: Eagle3DraftHead, target: Any, target_folder: str, engine_name: str
) -> list[str]:
    """What an exported folder says otherwise than the head it was made from.

    Args:
        folder: The exported folder.
        head: The head.
        target: Its target.
        target_folder: Where that lies.
        engine_name: Name of the engine in findings.

    Returns:
        A sentence for each difference; none where the folder is the head.
    """
    try:
        read = Eagle3DraftHead.from_pretrained(folder, dtype=head.dtype).to(head.device)
    except (ValueError, OSError) as error:
        return [f"this package cannot open the exported folder: {error}"]
    differences = [*_settings(read, head, target), *_tensors(read, head)]
    for finding in check(folder, target_folder).findings:
        if finding.level == "error" and engine_name in finding.engines:
            differences.append(f"eagle-hf check: {finding.key}: {finding.happens}")
    return differences


def _settings(read: Eagle3DraftHead, head: Eagle3DraftHead, target: Any) -> list[str]:
    """Differences of config.json."""
    differences = []
    for name in SETTINGS:
        ours = getattr(head.config, name)
        theirs = getattr(read.config, name)
        if theirs != ours:
            differences.append(f"config.json: {name} is {theirs}, and {ours} in the head")
    their_theta = (read.config.rope_parameters or {}).get("rope_theta")
    our_theta = (head.config.rope_parameters or {}).get("rope_theta")
    if their_theta != our_theta:
        differences.append(
            f"config.json: RoPE's theta is {their_theta}, and {our_theta} in the head"
        )
    theirs = list(aux_layer_ids(target, read.config))
    ours = list(aux_layer_ids(target, head.config))
    if theirs != ours:
        differences.append(f"config.json: aux layers {theirs}, and {ours} in the head")
    return differences


def _tensors(read: Eagle3DraftHead, head: Eagle3DraftHead) -> list[str]:
    """Differences of the weights, a name each."""
    theirs = read.state_dict()
    differences = []
    for name, ours in head.state_dict().items():
        if name == "t2d":  # engines read d2t alone, and so does this package
            continue
        their = theirs.get(name)
        if their is None:
            differences.append(f"{name} is missing")
        elif their.shape != ours.shape:
            differences.append(f"{name} is {list(their.shape)}, and {list(ours.shape)} in the head")
        elif not torch.equal(their, ours):
            differences.append(_describe(name, their, ours))
    return differences


def _describe(name: str, theirs: torch.Tensor, ours: torch.Tensor) -> str:
    """How two tensors of one shape differ."""
    if name == "d2t":
        wrong = int((theirs != ours).sum())
        return f"d2t: {wrong} of {len(ours)} draft ids mean other tokens"
    if theirs.dim() == 2 and torch.equal(theirs.sum(1).sort().values, ours.sum(1).sort().values):
        return f"{name}: the rows of the head in another order"
    return f"{name} holds other numbers, by up to {float((theirs - ours).abs().max()):.2g}"
