"""The draft vocabulary on disk: whether d2t and t2d are there, offsets rather than ids, within the vocabulary, and of one another.

U draft vocabulary, V target vocabulary. d2t [U] holds offsets, target id = draft id + d2t[draft id]; t2d [V] marks the same tokens, and
no engine but eagle_hf reads it.
"""

from collections.abc import Iterator

import torch

from eagle_hf.head.opening import INTEGERS
from eagle_hf.head.vocabulary import draft_to_target_ids
from eagle_hf.hub.findings import (
    ENGINES,
    MEND,
    SERVERS,
    SGLANG,
    VLLM,
    Finding,
    error,
    note,
    warning,
)
from eagle_hf.hub.saved import SavedHead, Target

MAP = ("d2t", "t2d")
AGAIN = "save or export the head again"


def vocabulary_map(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    rows, full = head.draft_vocab_size, head.size("vocab_size")
    if head.unreadable or not rows or not full:
        return
    if rows == full:
        if "d2t" in head.tensors:
            yield error(
                "d2t",
                (VLLM,),
                "the vocabulary is whole, where no map is known: loading stops",
                f"remove d2t and t2d: {MEND}",
            )
    elif "d2t" not in head.tensors:
        happens = f"missing with {rows} of {full} tokens: vLLM, SGLang and OpenVINO take draft id 0 for token 0 and so on, silently; llama.cpp stops"
        yield error("d2t", SERVERS, happens, f"the map cannot be made up: {AGAIN}", "EAGLE#249")
    else:
        yield from _map(
            *(head.tensors[name].read() if name in head.tensors else None for name in MAP),
            rows,
            full,
        )


def _map(d2t: torch.Tensor, t2d: torch.Tensor | None, rows: int, full: int) -> Iterator[Finding]:
    if t2d is None:
        yield note(
            "t2d", SERVERS, "absent, which no engine minds", f"trainers read it: {MEND} adds it"
        )
    if d2t.shape != (rows,):
        happens = f"is {list(d2t.shape)}, but the draft vocabulary has {rows} tokens: drafts are mapped to wrong tokens, or loading stops"
        yield error("d2t", SERVERS, happens, AGAIN, "EAGLE#214")
        return
    if d2t.dtype not in INTEGERS:
        yield error(
            "d2t",
            (SGLANG,),
            f"is of {d2t.dtype}, which cannot index tokens",
            f"write int64: {MEND}",
        )
    elif d2t.dtype != torch.int64:
        yield warning(
            "d2t",
            (VLLM, SGLANG),
            f"is of {d2t.dtype}; engines expect int64",
            f"write int64: {MEND}",
        )
    if is_whole(d2t):
        yield from _ids(d2t.long(), t2d, full)


def _ids(d2t: torch.Tensor, t2d: torch.Tensor | None, full: int) -> Iterator[Finding]:
    ids = draft_to_target_ids(d2t)
    repeated = len(ids) - len(ids.unique())
    if are_absolute(d2t, t2d, full):
        happens = "holds token ids, to which engines add the draft id: drafts are mapped to wrong tokens, or loading stops"
        yield error("d2t", SERVERS, happens, f"write offsets, target id - draft id: {MEND}")
    elif ids.min() < 0 or ids.max() >= full:
        happens = f"maps to the tokens {int(ids.min())} to {int(ids.max())} of 0 to {full - 1}: an index error on the device, or loading stops"
        yield error("d2t", SERVERS, happens, AGAIN)
    elif repeated:
        yield error(
            "d2t",
            SERVERS,
            f"maps {repeated} draft ids to a token that has one already: one of the two is lost, llama.cpp stops",
            AGAIN,
        )
    elif t2d is not None and not marks(t2d, ids, full):
        happens = "marks other tokens than d2t names: one was rebuilt over this head; if it was d2t, drafts are mapped to wrong tokens, silently"
        remedy = "take both from the checkpoint that the head was trained from; never rebuild them when fine-tuning"
        yield error("t2d", ENGINES, happens, remedy, "SpecForge#534")
    elif (ids[1:] < ids[:-1]).any():
        happens = "names tokens in no ascending order, which engines do not mind"
        yield note("d2t", SERVERS, happens, f"eagle_hf wants them ascending: {MEND} sorts the rows")


def is_whole(d2t: torch.Tensor) -> bool:
    """Whether these are whole numbers, in whatever dtype."""
    return d2t.dtype in INTEGERS or (
        d2t.is_floating_point() and bool((d2t.isfinite() & (d2t == d2t.round())).all())
    )


def marks(t2d: torch.Tensor, ids: torch.Tensor, full: int) -> bool:
    """Whether t2d [V] marks exactly these ids."""
    return t2d.shape == (full,) and torch.equal(t2d.nonzero()[:, 0], ids.sort().values)


def are_absolute(d2t: torch.Tensor, t2d: torch.Tensor | None, full: int) -> bool:
    """Whether d2t [U] provably holds ids: ascending ones, which t2d marks, and as offsets they fit neither t2d nor the vocabulary."""
    if not bool((d2t[1:] > d2t[:-1]).all()) or d2t[0] < 0 or d2t[-1] >= full:
        return False
    ids = draft_to_target_ids(d2t)
    return (
        bool(ids[-1] >= full)
        if t2d is None
        else marks(t2d, d2t, full) and not marks(t2d, ids, full)
    )
