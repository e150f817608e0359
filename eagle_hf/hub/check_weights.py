"""What the engines load from a head's weight files, tensor by tensor: names, shapes, values, LM head and embeddings.

Only eagle_hf and llama.cpp insist that every weight arrives: the others run what is missing on its initial values.
"""

import textwrap
from collections.abc import Iterator

import torch

from eagle_hf.head.dialects import NEVER_LOADED
from eagle_hf.head.opening import FLOATS
from eagle_hf.hub.check_vocabulary import MAP
from eagle_hf.hub.findings import (
    EAGLE_HF,
    ENGINES,
    LLAMA_CPP,
    MEND,
    MEND_WITH,
    OPENVINO,
    SERVERS,
    SGLANG,
    VLLM,
    Finding,
    error,
    note,
    warning,
)
from eagle_hf.hub.saved import SavedHead, Target

EMBEDDINGS = "embed_tokens.weight"
QUANTISED = (
    ".qweight",
    ".qzeros",
    ".scales",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".weight_zero_point",
)


def expected_shapes(head: SavedHead) -> dict[str, tuple[int, ...]]:
    """Our names and the shapes that config.json announces, d2t and t2d aside; empty where a size is missing."""
    hidden, heads, inner, rows = (
        head.hidden_size,
        head.size("num_attention_heads"),
        head.size("intermediate_size"),
        head.draft_vocab_size,
    )
    if not (hidden and heads and inner and rows):
        return {}
    wide, width = (
        head.size("target_hidden_size") or hidden,
        head.size("head_dim") or hidden // heads,
    )
    keys = head.size("num_key_value_heads") or heads
    shapes = {
        "fc.weight": (hidden, head.num_aux * wide),
        "norm.weight": (hidden,),
        "lm_head.weight": (rows, hidden),
    }
    shapes |= {
        f"midlayer.{name}.weight": (hidden,)
        for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")
    }
    shapes |= {
        f"midlayer.self_attn.{name}_proj.weight": (n * width, 2 * hidden)
        for name, n in (("q", heads), ("k", keys), ("v", keys))
    }
    shapes |= {
        "midlayer.self_attn.o_proj.weight": (hidden, heads * width),
        "midlayer.mlp.down_proj.weight": (hidden, inner),
    }
    shapes |= {f"midlayer.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
    if head.config.get("fc_norm") is True:
        shapes |= {f"fc_norm.{i}.weight": (wide,) for i in range(min(head.num_aux, 64))}
    if head.config.get("norm_before_fc") is True:
        shapes["input_norm.weight"] = (head.num_aux * wide,)
    return shapes


def opened(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Whether eagle_hf opens it, in its own words."""
    if head.refusal:
        happens = f"refused: {textwrap.shorten(head.refusal, 400)}"
        yield error(
            "from_pretrained",
            (EAGLE_HF,),
            happens,
            f"mend what the other engines stumble over; {MEND} does, where it is no guess",
        )


def files(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    if head.unreadable:
        yield error(
            "weights",
            SERVERS,
            f"cannot be read: {textwrap.shorten(head.unreadable, 400)}",
            "copy or download them again",
        )
    elif head.is_pickle:
        happens = "the weights are a pickle, a program that others wrote; it was read here as tensors alone"
        yield warning("pytorch_model.bin", SERVERS, happens, f"write safetensors: {MEND}")


def names(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Tensors that are missing, unknown or quantised."""
    expected = expected_shapes(head)
    if head.unreadable or not expected:
        return
    missing = [name for name in expected if name not in head.tensors and name != "lm_head.weight"]
    if missing:
        happens = "missing: vLLM, SGLang and OpenVINO run them on their initial values and draft noise, with no error; llama.cpp stops"
        yield error(_some(missing), SERVERS, happens, "save or export the head again")
    quantised = [head.on_disk[name] for name in head.tensors if name.endswith(QUANTISED)]
    if quantised:
        happens = "quantised tensors, which no engine is sure to read in a draft head"
        yield error(_some(quantised), SERVERS, happens, "give the head it was made from")
    known = {*expected, *MAP, EMBEDDINGS}
    harmless = (*QUANTISED, "_proj.bias", "rotary_emb.inv_freq")
    unknown = [
        head.on_disk[name]
        for name in head.tensors
        if name not in known and not name.endswith(harmless)
    ]
    if unknown:
        happens = "no tensor of the head that config.json announces: vLLM and llama.cpp stop, SGLang and OpenVINO leave it out silently"
        yield error(
            _some(unknown),
            SERVERS,
            happens,
            "remove it, or set the flag that it belongs to (fc_norm, norm_before_fc)",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def prefixes(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Names that not every engine finds."""
    written = [
        disk
        for name, disk in head.on_disk.items()
        if name.startswith("midlayer.") or name in expected_shapes(head)
    ]
    prefixed = [disk for disk in written if disk.startswith("model.")]
    if prefixed:
        happens = "the prefix model. makes it unknown: vLLM and the converter stop, OpenVINO's export runs random weights instead"
        yield error(
            _some(prefixed[:1]),
            (VLLM, LLAMA_CPP, OPENVINO),
            happens,
            f"write the names without it: {MEND}",
        )
    elif any(disk.startswith("layers.0.") for disk in written):
        happens = "the export prints MISSING and runs a random layer in its place"
        yield error(
            "layers.0.*",
            (OPENVINO,),
            happens,
            f"write the names midlayer.*, which all engines load: {MEND}",
            "run",
        )


def shapes(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    for name, shape in expected_shapes(head).items():
        if name in head.tensors and head.tensors[name].shape != shape:
            happens = f"is {list(head.tensors[name].shape)}, but config.json announces {list(shape)}: loading stops"
            yield error(
                head.on_disk[name],
                SERVERS,
                happens,
                f"write the sizes that the weights have, head_dim included: {MEND}",
            )


def lm_head(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    if head.unreadable or "lm_head.weight" in head.tensors:
        return
    rows, full = head.draft_vocab_size, head.size("vocab_size")
    if rows != full:
        happens = f"missing; the target's, which is borrowed instead, has {full} rows, not {rows}: they are read as other tokens, or loading stops"
        yield error(
            "lm_head.weight", SERVERS, happens, "save or export the head again", "sglang#27908"
        )
    elif head.config.get("draft_vocab_size") is not None:
        happens = "missing; SGLang borrows the target's only if draft_vocab_size is null, and else drafts from random weights, as OpenVINO does"
        yield error(
            "lm_head.weight",
            (SGLANG, OPENVINO),
            happens,
            f"write a whole head: {MEND_WITH}",
            "sglang#27908",
        )


def values(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """One pass over the weights: what is no number, all zero, all one, or of a dtype that heads do not have."""
    ones, dtypes = [], {}
    for name, stored in head.tensors.items():
        if name in (*MAP, *NEVER_LOADED):
            continue
        tensor, disk = stored.read(), head.on_disk[name]
        dtypes.setdefault(tensor.dtype, disk)
        if tensor.dtype not in FLOATS:
            happens = f"is of {tensor.dtype}: quantised, or no weight"
            yield error(
                disk,
                SERVERS,
                happens,
                "give the head it was made from, in float32, bfloat16 or float16",
            )
        elif not tensor.isfinite().all():
            yield error(
                disk,
                ENGINES,
                "holds NaN or infinity: every draft is noise",
                "take an earlier checkpoint",
            )
        elif not tensor.any():
            yield error(
                disk,
                ENGINES,
                "is all zero: never loaded or never trained",
                "save or export the head again",
            )
        elif name.endswith("norm.weight") and bool((tensor == 1).all()):
            ones.append(disk)
    if ones and len(ones) == sum(name.endswith("norm.weight") for name in expected_shapes(head)):
        happens = "all norms are exactly 1: the head looks untrained, or its norms were lost"
        yield warning(_some(ones), ENGINES, happens, "compare it with the checkpoint")
    if torch.float64 in dtypes:
        happens = "is float64, which is cast to the target's dtype on loading"
        yield warning(
            dtypes[torch.float64], SERVERS, happens, "save the head in the target's dtype"
        )
    if len(dtypes) > 1:
        kinds = " and ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        yield note(
            "dtypes",
            SERVERS,
            f"weights are of {kinds}; all are cast to the target's dtype",
            "nothing",
        )


def embeddings(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Embeddings in the head's own files: who uses them, and whether they are the target's."""
    if EMBEDDINGS not in head.tensors:
        return
    key = head.on_disk[EMBEDDINGS]
    ours, theirs = head.tensors[EMBEDDINGS].read(), target.read_embeddings() if target else None
    if not ours.any() or not ours.isfinite().all():
        happens = "embeddings are shipped that are all zero or no numbers, and vLLM and llama.cpp draft from them"
        yield error(key, (VLLM, LLAMA_CPP), happens, f"remove them: {MEND_WITH}", "TorchSpec#38")
    elif theirs is None:
        happens = "embeddings are shipped: vLLM and llama.cpp use them, SGLang and eagle_hf the target's; random ones were published before"
        yield warning(
            key, ENGINES, happens, "compare them with the target's: --target", "TorchSpec#38"
        )
    elif same_embeddings(ours, theirs):
        yield note(
            key,
            SERVERS,
            "the target's own embeddings, which are shared or left out on loading",
            f"remove them: {MEND_WITH}",
        )
    else:
        happens = "not the target's: vLLM and llama.cpp draft from them, SGLang and eagle_hf from the target's; if they are random, drafts are noise"
        yield error(
            key,
            (VLLM, LLAMA_CPP),
            happens,
            f"remove them, unless the head was trained on them: {MEND_WITH}",
            "TorchSpec#38",
        )


def same_embeddings(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether these are the same, as far as the coarser of the two dtypes tells."""
    if ours.shape != theirs.shape or ours.dtype not in FLOATS or theirs.dtype not in FLOATS:
        return False
    coarse = max((ours.dtype, theirs.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    return torch.equal(ours.to(coarse), theirs.to(coarse))


RULES = (opened, files, names, prefixes, shapes, lm_head, values, embeddings)
