"""The draft vocabulary on disk: whether d2t and t2d are there, hold offsets, and fit each other.

U draft vocabulary, V target vocabulary. d2t [U] holds offsets, target id = draft id + d2t[draft
id]. t2d [V] marks the same tokens, and no engine but eagle_hf reads it.
"""

import torch

from eagle_hf.head.opening import INTEGERS
from eagle_hf.head.vocabulary import draft_to_target_ids
from eagle_hf.hub.check.findings import FIX, Findings, error, note, warning
from eagle_hf.hub.engines import ENGINES, SERVERS, SGLANG, VLLM
from eagle_hf.hub.saved_head import SavedHead
from eagle_hf.hub.saved_target import Target

SAVE_AGAIN = "save or export the head again"


def check_vocabulary_map(head: SavedHead, target: Target | None) -> Findings:
    """Check that a map is there for a part of the vocabulary, and none for the whole."""
    rows = head.draft_vocab_size
    full = head.size("vocab_size")
    if head.unreadable or rows is None or full is None:
        return
    # Draft ids are token ids, so there is nothing to map.
    if rows == full:
        if "d2t" in head.tensors:
            yield error(
                "d2t",
                [VLLM],
                happens="the vocabulary is whole, where no map is known: loading stops",
                remedy=f"remove d2t and t2d: {FIX}",
            )
    elif "d2t" not in head.tensors:
        yield error(
            "d2t",
            SERVERS,
            happens=f"missing with {rows} of {full} tokens: vLLM, SGLang and OpenVINO take draft "
            "id 0 for token 0 and so on, silently; llama.cpp stops",
            remedy=f"the map cannot be made up: {SAVE_AGAIN}",
            source="EAGLE#249",
        )
    else:
        d2t = head.tensors["d2t"].read()
        t2d = head.tensors["t2d"].read() if "t2d" in head.tensors else None
        yield from _check_map(d2t, t2d, rows, full)


def _check_map(d2t: torch.Tensor, t2d: torch.Tensor | None, rows: int, full: int) -> Findings:
    """Check the form of the map, and then the tokens that it names."""
    if t2d is None:
        yield note(
            "t2d",
            SERVERS,
            happens="absent, which no engine minds",
            remedy=f"trainers read it: {FIX} adds it",
        )
    if d2t.shape != (rows,):
        yield error(
            "d2t",
            SERVERS,
            happens=f"is {list(d2t.shape)}, but the draft vocabulary has {rows} tokens: drafts are "
            "mapped to wrong tokens, or loading stops",
            remedy=SAVE_AGAIN,
            source="EAGLE#214",
        )
        return
    if d2t.dtype not in INTEGERS:
        yield error(
            "d2t",
            [SGLANG],
            happens=f"is of {d2t.dtype}, which cannot index tokens",
            remedy=f"write int64: {FIX}",
        )
    elif d2t.dtype != torch.int64:
        yield warning(
            "d2t",
            [VLLM, SGLANG],
            happens=f"is of {d2t.dtype}; engines expect int64",
            remedy=f"write int64: {FIX}",
        )
    # Fractions, NaN and infinity name no tokens that could be checked.
    if holds_whole_numbers(d2t):
        yield from _check_ids(d2t.long(), t2d, full)


def _check_ids(d2t: torch.Tensor, t2d: torch.Tensor | None, full: int) -> Findings:
    """Check the tokens that d2t [U] names, the gravest fault first."""
    ids = draft_to_target_ids(d2t)  # [U]
    repeated = len(ids) - len(ids.unique())
    if are_absolute_ids(d2t, t2d, full):
        yield error(
            "d2t",
            SERVERS,
            happens="holds token ids, to which engines add the draft id: drafts are mapped to "
            "wrong tokens, or loading stops",
            remedy=f"write offsets, target id - draft id: {FIX}",
        )
    elif ids.min() < 0 or ids.max() >= full:
        yield error(
            "d2t",
            SERVERS,
            happens=f"maps to the tokens {int(ids.min())} to {int(ids.max())} of 0 to {full - 1}: "
            "an index error on the device, or loading stops",
            remedy=SAVE_AGAIN,
        )
    elif repeated:
        yield error(
            "d2t",
            SERVERS,
            happens=f"maps {repeated} draft ids to a token that has one already: one of the two is "
            "lost, llama.cpp stops",
            remedy=SAVE_AGAIN,
        )
    elif t2d is not None and not marks_exactly(t2d, ids, full):
        yield error(
            "t2d",
            ENGINES,
            happens="marks other tokens than d2t names: one was rebuilt over this head; if it was "
            "d2t, drafts are mapped to wrong tokens, silently",
            remedy="take both from the checkpoint that the head was trained from; never rebuild "
            "them when fine-tuning",
            source="SpecForge#534",
        )
    elif (ids[1:] < ids[:-1]).any():
        yield note(
            "d2t",
            SERVERS,
            happens="names tokens in no ascending order, which engines do not mind",
            remedy=f"eagle_hf wants them ascending: {FIX} sorts the rows",
        )


def holds_whole_numbers(d2t: torch.Tensor) -> bool:
    """Whether all values are whole numbers, in whatever dtype."""
    if d2t.dtype in INTEGERS:
        return True
    if not d2t.is_floating_point():
        return False
    return bool((d2t.isfinite() & (d2t == d2t.round())).all())


def marks_exactly(t2d: torch.Tensor, ids: torch.Tensor, full: int) -> bool:
    """Whether t2d [V] marks exactly these ids."""
    return t2d.shape == (full,) and torch.equal(t2d.nonzero()[:, 0], ids.sort().values)


def are_absolute_ids(d2t: torch.Tensor, t2d: torch.Tensor | None, full: int) -> bool:
    """Whether d2t [U] provably holds target ids, no offsets.

    It does when its values are ascending ids, t2d marks them, and as offsets they fit neither t2d
    nor the vocabulary. Without t2d only the vocabulary can tell.
    """
    # Trainers write ids in ascending order, so another order proves nothing.
    is_ascending = bool((d2t[1:] > d2t[:-1]).all())
    if not is_ascending or d2t[0] < 0 or d2t[-1] >= full:
        return False
    ids = draft_to_target_ids(d2t)
    if t2d is None:
        return bool(ids[-1] >= full)
    return marks_exactly(t2d, d2t, full) and not marks_exactly(t2d, ids, full)
