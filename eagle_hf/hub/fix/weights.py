"""Correct a head's tensors: names, the map of the draft vocabulary, and what is the target's.

U draft vocabulary, V target vocabulary, H hidden.
"""

import torch

from eagle_hf.head.dialects import NEVER_LOADED
from eagle_hf.head.vocabulary import draft_to_target_ids
from eagle_hf.hub.check.embeddings import are_same_embeddings
from eagle_hf.hub.check.vocabulary import are_absolute_ids, holds_whole_numbers
from eagle_hf.hub.saved_head import EMBEDDINGS, LM_HEAD, VOCABULARY_MAP, SavedHead
from eagle_hf.hub.saved_target import Target

Weights = dict[str, torch.Tensor]


def fix_weights(head: SavedHead, target: Target | None) -> tuple[Weights, list[str]]:
    """(tensors by our names, what was changed); tensors that are the target's are left out."""
    weights = {}
    for name, stored in head.tensors.items():
        if name not in NEVER_LOADED and not name.endswith("rotary_emb.inv_freq"):
            weights[name] = stored.read()
    changes = _list_renamed(head, weights)
    if head.is_pickle:
        changes.append("the weights are safetensors, no pickle")
    if EMBEDDINGS in head.tensors:
        changes.append(f"embed_tokens.weight left out: {_whose_embeddings(head, target)}")
    changes += _borrow_lm_head(head, target, weights)
    if "d2t" in weights:
        changes += _fix_map(weights, head.size("vocab_size"))
    elif "t2d" in weights and head.has_whole_vocabulary:
        del weights["t2d"]
        changes.append("t2d left out: the vocabulary is whole")
    return {name: tensor.contiguous() for name, tensor in weights.items()}, changes


def _list_renamed(head: SavedHead, weights: Weights) -> list[str]:
    """How many tensors have another name in the file, and the first of them."""
    renamed = [name for name in weights if head.on_disk[name] != name]
    if not renamed:
        return []
    first = renamed[0]
    return [f"{len(renamed)} tensors renamed, {head.on_disk[first]} to {first} and so on"]


def _whose_embeddings(head: SavedHead, target: Target | None) -> str:
    """Why the embeddings can be left out."""
    theirs = target.read_embeddings() if target else None
    if theirs is not None and are_same_embeddings(head.tensors[EMBEDDINGS].read(), theirs):
        return "the target has the same"
    return "they are not the target's, which SGLang and eagle_hf use"


def _borrow_lm_head(head: SavedHead, target: Target | None, weights: Weights) -> list[str]:
    """Add the target's LM head [V, H] where a head of the whole vocabulary has none."""
    if LM_HEAD in weights or not head.has_whole_vocabulary:
        return []
    borrowed = target.read_lm_head() if target else None
    # Nothing is borrowed that does not fit.
    if borrowed is None or borrowed.shape != (head.size("vocab_size"), head.hidden_size):
        return []
    weights[LM_HEAD] = borrowed.clone()
    return ["lm_head.weight: the target's, which engines borrowed"]


def _fix_map(weights: Weights, full: int | None) -> list[str]:
    """Correct the map in place; what was changed.

    d2t becomes ascending int64 offsets, with the LM head's rows in its order. A whole vocabulary
    gets no map. A d2t that is neither offsets nor provably ids stays, and opening the head
    refuses it.
    """
    d2t = weights["d2t"]  # [U]
    t2d = weights.get("t2d")  # [V]
    lm_head = weights.get(LM_HEAD)  # [U, H]
    if full is None or lm_head is None or not _can_be_map(d2t, len(lm_head)):
        return []
    changes = []
    if d2t.dtype != torch.int64:
        before = str(d2t.dtype).removeprefix("torch.")
        changes.append(f"d2t is int64 instead of {before}")
        d2t = d2t.long()
    if are_absolute_ids(d2t, t2d, full):
        ids = d2t
        changes.append("d2t holds offsets instead of ids")
    else:
        ids = draft_to_target_ids(d2t)
    # Row i of the LM head belongs to draft id i, so both are sorted together.
    order = ids.argsort()
    positions = torch.arange(len(ids))
    if not torch.equal(order, positions):
        changes.append("d2t and the rows of lm_head are in ascending order")
    offsets = ids[order] - positions
    weights["d2t"] = offsets
    weights[LM_HEAD] = lm_head[order]
    if len(ids) == full and not offsets.any():
        for name in VOCABULARY_MAP:
            weights.pop(name, None)
        changes.append("d2t and t2d left out: the vocabulary is whole")
    elif t2d is None:
        changes.append("t2d added, as d2t says")
    return changes


def _can_be_map(d2t: torch.Tensor, rows: int) -> bool:
    """Whether d2t is a list of whole numbers, one for each row of the LM head."""
    if d2t.dim() != 1 or len(d2t) != rows or rows == 0:
        return False
    return holds_whole_numbers(d2t)
