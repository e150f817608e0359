"""Write a corrected copy of a head: everything that follows from what is there, and nothing that would be a guess.

The head is put into the one layout that all engines load, opened as any head is, told its target's facts, saved, and checked again.
"""

import json
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from eagle_hf.head.dialects import HEADS_OWN, NEVER_LOADED
from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.sidecars import LASTING, copy_sidecars, sidecars
from eagle_hf.head.vocabulary import draft_to_target_ids
from eagle_hf.hub.check import examine
from eagle_hf.hub.check_layers import (
    NESTED,
    depth,
    family_of,
    named_layers,
    nested_ids,
    trained_layers,
)
from eagle_hf.hub.check_target import TOKENS
from eagle_hf.hub.check_vocabulary import MAP, are_absolute, is_whole
from eagle_hf.hub.check_weights import EMBEDDINGS, embeddings, same_embeddings
from eagle_hf.hub.findings import Finding, shown
from eagle_hf.hub.saved import SavedHead, Target, open_saved, open_target

GUESSES = (
    "rope_theta",
    "rope_scaling",
)  # two values that contradict each other; reading would silently prefer one
LOOKED_FOR = (
    "architectures",
    "model_type",
    "num_hidden_layers",
    "draft_vocab_size",
    "num_aux_hidden_states",
    "norm_before_residual",
    "rope_parameters",
    "rope_theta",
    LAYER_IDS_KEY,
)
Weights = dict[str, torch.Tensor]


def fix(folder_or_id: str | Path, out: str | Path, target=None, **hub_kwargs) -> list[str]:
    """Write the head corrected to the new folder `out`; what was changed, a line each.

    target and hub_kwargs: as of `check`. The result opens with from_pretrained and passes `check`, but for limits of an engine that no
    folder can change. What would be a guess is not changed: then nothing is written, and a ValueError lists it.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already; choose a new folder, nothing is overwritten")
    facts = None if target is None else open_target(target, **hub_kwargs)
    with (
        open_saved(folder_or_id, **hub_kwargs) as head,
        TemporaryDirectory(dir=_existing(out.parent), prefix=".fixing-") as scratch,
    ):
        unknown = [
            finding for finding in embeddings(head, facts) if finding.level == "warning"
        ]  # without the target nobody can tell whose
        refuse(
            [finding for finding in examine(head, facts) if is_guess(head, finding)] + unknown,
            folder_or_id,
        )
        changes = write(head, facts, Path(scratch))
        with open_saved(Path(scratch, "head")) as mended:
            refuse(
                [
                    finding
                    for finding in examine(mended, facts)
                    if finding.level == "error" and not finding.limit
                ],
                folder_or_id,
            )
        if Path(folder_or_id).is_dir():
            copy_sidecars(
                {name: Path(folder_or_id, name) for name in sidecars(Path(folder_or_id), LASTING)},
                Path(scratch, "head"),
            )
        Path(scratch, "head").rename(out)
    return changes


def _existing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_guess(head: SavedHead, finding: Finding) -> bool:
    """Whether mending this would mean to choose between two things that the head says of itself."""
    top, nested = named_layers(head)
    if (
        finding.key in (LAYER_IDS_KEY, NESTED)
        and top
        and nested
        and "aux_layer_ids" not in head.table("eagle_hf")
    ):
        return finding.level == "error"
    return finding.level == "error" and finding.key in GUESSES


def refuse(findings: list[Finding], source) -> None:
    if findings:
        listed = "\n".join(
            f"- {finding.key}: {finding.happens}; {finding.remedy}" for finding in findings
        )
        raise ValueError(
            f"{source} cannot be mended without a guess, so nothing is written:\n{listed}"
        )


def write(head: SavedHead, target: Target | None, scratch: Path) -> list[str]:
    """Save the mended head to scratch/head, by way of scratch/raw."""
    weights, changes = mended_weights(head, target)
    config = mended_config(head, weights)
    Path(scratch, "raw").mkdir()
    save_file(weights, Path(scratch, "raw", "model.safetensors"), metadata={"format": "pt"})
    Path(scratch, "raw", "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        saved = Eagle3DraftHead.from_pretrained(scratch / "raw")
    except ValueError as error:
        raise ValueError(
            f"{head.source} cannot be mended: {str(error).replace(str(scratch / 'raw'), head.source)}"
        ) from error
    saved.name_or_path = ""  # its folder is about to go
    layers, family = depth(head, target), family_of(target)
    trained = trained_layers(head, layers, family)
    if trained:
        saved.config.eagle_hf["aux_layer_ids"] = trained
    if layers:
        saved.config.eagle_hf["target_num_hidden_layers"] = layers
    if target:
        follow_target(saved.config, target)
    saved.save_pretrained(scratch / "head")
    file = scratch / "head" / "config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    if (
        target and LAYER_IDS_KEY in written
    ):  # by the target's class SGLang counts, some lists it cannot be told at all
        nested = nested_ids(trained, layers, family)
        written["eagle_config"] = {"use_aux_hidden_state": True} | (
            {LAYER_IDS_KEY: nested} if nested else {}
        )
        file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return changes + differences(head.raw, written)


def follow_target(config, target: Target) -> None:
    """What a head takes from its target: special tokens, and its length where RoPE does not depend on it."""
    for key in TOKENS:
        if key in target.config:
            setattr(config, key, target.config[key])
    longest = target.config.get("max_position_embeddings")
    if type(longest) is int and config.rope_parameters.get("rope_type") in ("default", "llama3"):
        config.max_position_embeddings = max(config.max_position_embeddings, longest)


def mended_weights(head: SavedHead, target: Target | None) -> tuple[Weights, list[str]]:
    """The head's tensors by our names, without those that are the target's, and what was changed about them."""
    changes, weights = [], {}
    for name, stored in head.tensors.items():
        if name in NEVER_LOADED or name.endswith("rotary_emb.inv_freq"):
            continue
        weights[name] = stored.read()
    renamed = [name for name in weights if head.on_disk[name] != name]
    if renamed:
        changes.append(
            f"{len(renamed)} tensors renamed, {head.on_disk[renamed[0]]} to {renamed[0]} and so on"
        )
    if head.is_pickle:
        changes.append("the weights are safetensors, no pickle")
    if EMBEDDINGS in head.tensors:
        theirs = target.read_embeddings() if target else None
        same = theirs is not None and same_embeddings(head.tensors[EMBEDDINGS].read(), theirs)
        whose = (
            "the target has the same"
            if same
            else "they are not the target's, which SGLang and eagle_hf use"
        )
        changes.append(f"embed_tokens.weight left out: {whose}")
    if "lm_head.weight" not in weights and head.draft_vocab_size == head.size("vocab_size"):
        borrowed = target.read_lm_head() if target else None
        if borrowed is not None and borrowed.shape == (head.size("vocab_size"), head.hidden_size):
            weights["lm_head.weight"] = borrowed.clone()
            changes.append("lm_head.weight: the target's, which engines borrowed")
    if "d2t" in weights:
        changes += mend_map(weights, head.size("vocab_size"))
    elif "t2d" in weights and head.draft_vocab_size == head.size("vocab_size"):
        del weights["t2d"]
        changes.append("t2d left out: the vocabulary is whole")
    return {name: tensor.contiguous() for name, tensor in weights.items()}, changes


def mend_map(weights: Weights, full: int | None) -> list[str]:
    """d2t as ascending int64 offsets with the LM head's rows in its order, none of a whole vocabulary; what was changed.

    A d2t that is neither offsets nor provably ids stays as it is, and opening the head refuses it.
    """
    d2t, t2d, head, changes = weights["d2t"], weights.get("t2d"), weights.get("lm_head.weight"), []
    if (
        d2t.dim() != 1
        or not len(d2t)
        or not is_whole(d2t)
        or not full
        or head is None
        or len(head) != len(d2t)
    ):
        return changes
    if d2t.dtype != torch.int64:
        changes.append(f"d2t is int64 instead of {str(d2t.dtype).removeprefix('torch.')}")
    d2t = d2t.long()
    if are_absolute(d2t, t2d, full):
        ids = d2t
        changes.append("d2t holds offsets instead of ids")
    else:
        ids = draft_to_target_ids(d2t)
    order = ids.argsort()
    if not torch.equal(order, torch.arange(len(ids))):
        changes.append("d2t and the rows of lm_head are in ascending order")
    ids, weights["lm_head.weight"] = ids[order], head[order]
    weights["d2t"] = ids - torch.arange(len(ids))
    if len(ids) == full and not weights["d2t"].any():
        for name in MAP:
            weights.pop(name, None)
        changes.append("d2t and t2d left out: the vocabulary is whole")
    elif t2d is None:
        changes.append("t2d added, as d2t says")
    return changes


def mended_config(head: SavedHead, weights: Weights) -> dict[str, Any]:
    """config.json in its own dialect, with the sizes that the weights have."""
    config = deepcopy(head.raw)
    for key in ("quantization_config", "auto_map"):
        config.pop(key, None)
    for key, value in sizes_of(head, weights).items():
        inner = head.dialect == "speculators" and key not in HEADS_OWN
        table = config["transformer_layer_config"] if inner else config
        table[key] = value
    config["dtype"] = (
        str(weights["fc.weight"].dtype).removeprefix("torch.")
        if "fc.weight" in weights
        else "float32"
    )
    return config


def sizes_of(head: SavedHead, weights: Weights) -> dict[str, Any]:
    """What the shapes prove; heads alone are known only from the config."""
    sizes: dict[str, Any] = {"num_hidden_layers": 1} if head.dialect != "automodel" else {}
    norm, fc, gate = (
        weights.get(name) for name in ("norm.weight", "fc.weight", "midlayer.mlp.gate_proj.weight")
    )
    if norm is not None and norm.dim() == 1:
        sizes["hidden_size"] = len(norm)
    wide = head.size("target_hidden_size") or sizes.get("hidden_size")
    if fc is not None and fc.dim() == 2 and wide and fc.shape[1] % wide == 0:
        sizes["num_aux_hidden_states"] = fc.shape[1] // wide
    if gate is not None and gate.dim() == 2:
        sizes["intermediate_size"] = len(gate)
    if "lm_head.weight" in weights:
        sizes["draft_vocab_size"] = len(weights["lm_head.weight"])
    queries, keys = (weights.get(f"midlayer.self_attn.{name}_proj.weight") for name in "qk")
    heads = head.size("num_attention_heads")
    if queries is not None and keys is not None and heads and len(queries) % heads == 0:
        width = len(queries) // heads
        if width and len(keys) % width == 0:
            sizes |= {"head_dim": width, "num_key_value_heads": len(keys) // width}
    return sizes


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What became of every key that was there, and which of the keys that engines look for were added."""
    before = {key: value for key, value in before.items() if key != "transformers_version"}
    lines = [
        f"{key}: {shown(value)} -> {shown(after[key])}"
        for key, value in before.items()
        if key in after and value != after[key]
    ]
    lines += [
        f"{key}: {shown(value)} left out"
        for key, value in before.items()
        if key not in after and value is not None
    ]
    return lines + [
        f"{key}: {shown(after[key])} added"
        for key in LOOKED_FOR
        if key in after and key not in before
    ]
