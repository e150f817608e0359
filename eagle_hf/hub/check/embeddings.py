"""LM head and embeddings: which the head has of its own, and which it shares with the target."""

import torch

from eagle_hf.head.opening import FLOATS
from eagle_hf.hub.check.findings import FIX_WITH_TARGET, Findings, error, note, warning
from eagle_hf.hub.engines import ENGINES, LLAMA_CPP, OPENVINO, SERVERS, SGLANG, VLLM
from eagle_hf.hub.saved_head import EMBEDDINGS, LM_HEAD, SavedHead
from eagle_hf.hub.saved_target import Target


def check_lm_head(head: SavedHead, target: Target | None) -> Findings:
    """Check a missing LM head: some engines borrow the target's in its place."""
    if head.unreadable or LM_HEAD in head.tensors:
        return
    rows = head.draft_vocab_size
    full = head.size("vocab_size")
    # A borrowed LM head has a row for every token of the target.
    if rows != full:
        yield error(
            LM_HEAD,
            SERVERS,
            happens=f"missing; the target's, which is borrowed instead, has {full} rows, not "
            f"{rows}: they are read as other tokens, or loading stops",
            remedy="save or export the head again",
            source="sglang#27908",
        )
    elif head.config.get("draft_vocab_size") is not None:
        yield error(
            LM_HEAD,
            [SGLANG, OPENVINO],
            happens="missing; SGLang borrows the target's only if draft_vocab_size is null, and "
            "else drafts from random weights, as OpenVINO does",
            remedy=f"write a whole head: {FIX_WITH_TARGET}",
            source="sglang#27908",
        )


def check_embeddings(head: SavedHead, target: Target | None) -> Findings:
    """Check embeddings in the head's own files: who uses them, and are they the target's?"""
    if EMBEDDINGS not in head.tensors:
        return
    key = head.on_disk[EMBEDDINGS]
    ours = head.tensors[EMBEDDINGS].read()  # [V, H]
    theirs = None if target is None else target.read_embeddings()
    if not ours.any() or not ours.isfinite().all():
        yield error(
            key,
            [VLLM, LLAMA_CPP],
            happens="embeddings are shipped that are all zero or no numbers, and vLLM and "
            "llama.cpp draft from them",
            remedy=f"remove them: {FIX_WITH_TARGET}",
            source="TorchSpec#38",
        )
    elif theirs is None:
        yield warning(
            key,
            ENGINES,
            happens="embeddings are shipped: vLLM and llama.cpp use them, SGLang and eagle_hf the "
            "target's; random ones were published before",
            remedy="compare them with the target's: --target",
            source="TorchSpec#38",
        )
    elif are_same_embeddings(ours, theirs):
        yield note(
            key,
            SERVERS,
            happens="the target's own embeddings, which are shared or left out on loading",
            remedy=f"remove them: {FIX_WITH_TARGET}",
        )
    else:
        yield error(
            key,
            [VLLM, LLAMA_CPP],
            happens="not the target's: vLLM and llama.cpp draft from them, SGLang and eagle_hf "
            "from the target's; if they are random, drafts are noise",
            remedy=f"remove them, unless the head was trained on them: {FIX_WITH_TARGET}",
            source="TorchSpec#38",
        )


def are_same_embeddings(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tables [V, H] are the same, as far as the coarser of their dtypes tells."""
    if ours.shape != theirs.shape or ours.dtype not in FLOATS or theirs.dtype not in FLOATS:
        return False
    # A copy that was rounded to another dtype is still the target's.
    ours_is_coarser = torch.finfo(ours.dtype).eps >= torch.finfo(theirs.dtype).eps
    coarser = ours.dtype if ours_is_coarser else theirs.dtype
    return torch.equal(ours.to(coarser), theirs.to(coarser))
