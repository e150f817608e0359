"""What the engines load from a head's weight files, tensor by tensor: names, shapes, values.

Only eagle_hf and llama.cpp insist that every weight arrives. The others run what is missing on its
initial values.
"""

import textwrap
from collections.abc import Iterable

import torch

from eagle_hf.head.dialects import NEVER_LOADED, SCALES
from eagle_hf.head.opening import FLOATS
from eagle_hf.hub.check.findings import FIX, Findings, error, note, warning
from eagle_hf.hub.engines import EAGLE_HF, ENGINES, LLAMA_CPP, OPENVINO, SERVERS, VLLM
from eagle_hf.hub.saved_head import EMBEDDINGS, LM_HEAD, VOCABULARY_MAP, SavedHead
from eagle_hf.hub.saved_target import Target

# Endings of quantised tensors. Dialects are recognised without the last one: it always stands
# beside a .qweight.
QUANTISED = (*SCALES, ".qzeros")
HARMLESS = ("_proj.bias", "rotary_emb.inv_freq")  # biases have a rule of their own
MOST_NORMS = 64  # a config may announce any number of states


def expected_shapes(head: SavedHead) -> dict[str, tuple[int, ...]]:
    """The shapes that config.json announces, by our names.

    d2t and t2d are left out. Without one of the sizes the dictionary is empty.
    """
    hidden = head.hidden_size
    heads = head.size("num_attention_heads")
    inner = head.size("intermediate_size")
    rows = head.draft_vocab_size
    if hidden is None or heads is None or inner is None or rows is None:
        return {}
    target_hidden = head.size("target_hidden_size") or hidden
    head_dim = head.size("head_dim") or hidden // heads
    key_heads = head.size("num_key_value_heads") or heads
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (hidden, head.num_aux * target_hidden),
        "norm.weight": (hidden,),
        LM_HEAD: (rows, hidden),
        "midlayer.input_layernorm.weight": (hidden,),
        "midlayer.hidden_norm.weight": (hidden,),
        "midlayer.post_attention_layernorm.weight": (hidden,),
        # Attention reads embedding and features side by side, hence 2 * hidden.
        "midlayer.self_attn.q_proj.weight": (heads * head_dim, 2 * hidden),
        "midlayer.self_attn.k_proj.weight": (key_heads * head_dim, 2 * hidden),
        "midlayer.self_attn.v_proj.weight": (key_heads * head_dim, 2 * hidden),
        "midlayer.self_attn.o_proj.weight": (hidden, heads * head_dim),
        "midlayer.mlp.down_proj.weight": (hidden, inner),
        "midlayer.mlp.gate_proj.weight": (inner, hidden),
        "midlayer.mlp.up_proj.weight": (inner, hidden),
    }
    if head.config.get("fc_norm") is True:
        for index in range(min(head.num_aux, MOST_NORMS)):
            shapes[f"fc_norm.{index}.weight"] = (target_hidden,)
    if head.config.get("norm_before_fc") is True:
        shapes["input_norm.weight"] = (head.num_aux * target_hidden,)
    return shapes


def check_opening(head: SavedHead, target: Target | None) -> Findings:
    """Check whether eagle_hf opens it, and say why not in its own words."""
    if head.refusal:
        yield error(
            "from_pretrained",
            [EAGLE_HF],
            happens=f"refused: {textwrap.shorten(head.refusal, 400)}",
            remedy=f"mend what the other engines stumble over; {FIX} does, where it is no guess",
        )


def check_files(head: SavedHead, target: Target | None) -> Findings:
    """Check whether the weight files can be read, and are no pickle."""
    if head.unreadable:
        yield error(
            "weights",
            SERVERS,
            happens=f"cannot be read: {textwrap.shorten(head.unreadable, 400)}",
            remedy="copy or download them again",
        )
    elif head.is_pickle:
        yield warning(
            "pytorch_model.bin",
            SERVERS,
            happens="the weights are a pickle, a program that others wrote; it was read here as "
            "tensors alone",
            remedy=f"write safetensors: {FIX}",
        )


def check_names(head: SavedHead, target: Target | None) -> Findings:
    """Check for tensors that are missing, quantised or unknown."""
    expected = expected_shapes(head)
    if head.unreadable or not expected:
        return
    # The LM head may be the target's: check_lm_head looks at that.
    missing = [name for name in expected if name not in head.tensors and name != LM_HEAD]
    if missing:
        yield error(
            _first_names(missing),
            SERVERS,
            happens="missing: vLLM, SGLang and OpenVINO run them on their initial values and draft "
            "noise, with no error; llama.cpp stops",
            remedy="save or export the head again",
        )
    known = {*expected, *VOCABULARY_MAP, EMBEDDINGS}
    quantised = []
    unknown = []
    for name in head.tensors:
        if name.endswith(QUANTISED):
            quantised.append(head.on_disk[name])
        elif name not in known and not name.endswith(HARMLESS):
            unknown.append(head.on_disk[name])
    if quantised:
        yield error(
            _first_names(quantised),
            SERVERS,
            happens="quantised tensors, which no engine is sure to read in a draft head",
            remedy="give the head it was made from",
        )
    if unknown:
        yield error(
            _first_names(unknown),
            SERVERS,
            happens="no tensor of the head that config.json announces: vLLM and llama.cpp stop, "
            "SGLang and OpenVINO leave it out silently",
            remedy="remove it, or set the flag that it belongs to (fc_norm, norm_before_fc)",
        )


def _first_names(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    listed = ", ".join(names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"


def check_prefixes(head: SavedHead, target: Target | None) -> Findings:
    """Check for names that not every engine finds."""
    expected = expected_shapes(head)
    written = []
    for name, name_on_disk in head.on_disk.items():
        if name.startswith("midlayer.") or name in expected:
            written.append(name_on_disk)
    prefixed = [name for name in written if name.startswith("model.")]
    if prefixed:
        yield error(
            prefixed[0],
            [VLLM, LLAMA_CPP, OPENVINO],
            happens="the prefix model. makes it unknown: vLLM and the converter stop, OpenVINO's "
            "export runs random weights instead",
            remedy=f"write the names without it: {FIX}",
        )
    elif any(name.startswith("layers.0.") for name in written):
        yield error(
            "layers.0.*",
            [OPENVINO],
            happens="the export prints MISSING and runs a random layer in its place",
            remedy=f"write the names midlayer.*, which all engines load: {FIX}",
            source="run",
        )


def check_shapes(head: SavedHead, target: Target | None) -> Findings:
    """Check the tensors' shapes against those that config.json announces."""
    for name, shape in expected_shapes(head).items():
        if name not in head.tensors:
            continue
        stored = head.tensors[name].shape
        if stored != shape:
            yield error(
                head.on_disk[name],
                SERVERS,
                happens=f"is {list(stored)}, but config.json announces {list(shape)}: "
                "loading stops",
                remedy=f"write the sizes that the weights have, head_dim included: {FIX}",
            )


def check_values(head: SavedHead, target: Target | None) -> Findings:
    """Check for what is no number, all zero, all one, or of an unusual dtype, in one pass."""
    norms_of_ones = []
    first_of_dtype: dict[torch.dtype, str] = {}
    for name, stored in head.tensors.items():
        # These have rules of their own, or are not the head's.
        if name in VOCABULARY_MAP or name in NEVER_LOADED:
            continue
        tensor = stored.read()
        name_on_disk = head.on_disk[name]
        first_of_dtype.setdefault(tensor.dtype, name_on_disk)
        if _is_norm(name) and _holds_only_ones(tensor):
            norms_of_ones.append(name_on_disk)
        yield from _check_tensor(name_on_disk, tensor)
    num_norms = sum(_is_norm(name) for name in expected_shapes(head))
    # A single norm may be 1 after training; all of them hardly are.
    if norms_of_ones and len(norms_of_ones) == num_norms:
        yield warning(
            _first_names(norms_of_ones),
            ENGINES,
            happens="all norms are exactly 1: the head looks untrained, or its norms were lost",
            remedy="compare it with the checkpoint",
        )
    if torch.float64 in first_of_dtype:
        yield warning(
            first_of_dtype[torch.float64],
            SERVERS,
            happens="is float64, which is cast to the target's dtype on loading",
            remedy="save the head in the target's dtype",
        )
    if len(first_of_dtype) > 1:
        yield note(
            "dtypes",
            SERVERS,
            happens=f"weights are of {_dtype_names(first_of_dtype)}; "
            "all are cast to the target's dtype",
            remedy="nothing",
        )


def _check_tensor(name_on_disk: str, tensor: torch.Tensor) -> Findings:
    """Check the dtype and the values of one tensor."""
    if tensor.dtype not in FLOATS:
        yield error(
            name_on_disk,
            SERVERS,
            happens=f"is of {tensor.dtype}: quantised, or no weight",
            remedy="give the head it was made from, in float32, bfloat16 or float16",
        )
    elif not tensor.isfinite().all():
        yield error(
            name_on_disk,
            ENGINES,
            happens="holds NaN or infinity: every draft is noise",
            remedy="take an earlier checkpoint",
        )
    elif not tensor.any():
        yield error(
            name_on_disk,
            ENGINES,
            happens="is all zero: never loaded or never trained",
            remedy="save or export the head again",
        )


def _is_norm(name: str) -> bool:
    """Whether the tensor is the weight of a norm."""
    return name.endswith("norm.weight")


def _holds_only_ones(tensor: torch.Tensor) -> bool:
    """Whether the tensor is one of weights, and all of them are 1."""
    return tensor.dtype in FLOATS and tensor.numel() > 0 and bool((tensor == 1).all())


def _dtype_names(dtypes: Iterable[torch.dtype]) -> str:
    """As "float32 and bfloat16"."""
    return " and ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
