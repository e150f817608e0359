"""Sizes in config.json: layers, widths, vocabularies, and the number of aux hidden states."""

from eagle_hf.hub.check.findings import Findings, error, note, shown, warning
from eagle_hf.hub.engines import LLAMA_CPP, OPENVINO, SERVERS, SGLANG, VLLM
from eagle_hf.hub.saved_head import LM_HEAD, SavedHead
from eagle_hf.hub.saved_target import Target

SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def check_layer_count(head: SavedHead, target: Target | None) -> Findings:
    """Check that the head is announced with one layer."""
    layers = head.config.get("num_hidden_layers")
    if layers is None:
        yield error(
            "num_hidden_layers",
            SERVERS,
            happens="absent: Llama's 32 layers are built, all but one of random weights",
            remedy="write 1",
        )
    elif layers != 1:
        yield error(
            "num_hidden_layers",
            SERVERS,
            happens=f"{shown(layers)}: llama.cpp takes it for no head; of further layers SGLang "
            "norms the input by hidden_norm, vLLM by input_layernorm",
            remedy="write 1 if the weights hold one layer; several need those norms under both "
            "names",
        )


def check_sizes(head: SavedHead, target: Target | None) -> Findings:
    """Check that sizes are positive integers, and the head as wide as its target."""
    for key in SIZES:
        if head.size(key) is None:
            yield error(
                key,
                SERVERS,
                happens=f"{shown(head.config.get(key))} is no size: Llama's default is taken, or "
                "loading stops",
                remedy="write the size that the weights have",
            )
    yield from _check_target_width(head)


def _check_target_width(head: SavedHead) -> Findings:
    """Check target_hidden_size, by which fc is sized."""
    key = "target_hidden_size"
    hidden = head.hidden_size
    width = head.config.get(key, hidden)  # fc reads num_aux states of this width
    # In the speculators format null is the usual value.
    is_null = key in head.config and width is None
    if is_null and head.dialect != "speculators":
        yield error(
            key,
            [VLLM, SGLANG],
            happens="null, which is multiplied by the number of states: loading stops",
            remedy="write the target's width, or leave the key out",
        )
    elif width is not None and width != hidden:
        has_embeddings = "embed_tokens.weight" in head.tensors
        ending = "uses its own" if has_embeddings else "has none of its own"
        # With embeddings of its own it can be served at another width than its target's.
        make_finding = warning if has_embeddings else error
        yield make_finding(
            key,
            SERVERS,
            happens=f"{shown(width)} is not hidden_size {shown(hidden)}, so the target's "
            f"embeddings do not fit, and the head {ending}",
            remedy="train a head of the target's width; eagle_hf opens no other",
            source="vllm#18906",
        )


def check_draft_vocabulary_size(head: SavedHead, target: Target | None) -> Findings:
    """Check draft_vocab_size, which has to be written, and at most the target's."""
    key = "draft_vocab_size"
    remedy = "write the number of rows of lm_head"
    if key not in head.config:
        yield error(
            key,
            [SGLANG, LLAMA_CPP, OPENVINO],
            happens="absent: SGLang and the OpenVINO export stop, llama.cpp converts the head as a "
            "plain Llama",
            remedy=remedy,
        )
    elif head.config[key] is None and LM_HEAD in head.tensors:
        yield error(
            key,
            [SGLANG, OPENVINO],
            happens="null: SGLang puts the target's LM head in the place of the head's own, the "
            "export stops",
            remedy=remedy,
        )
    rows = head.draft_vocab_size
    full = head.size("vocab_size")
    if rows is None or full is None:
        return
    # Drafts beyond the target's vocabulary cannot be verified.
    if rows > full:
        yield error(
            key,
            SERVERS,
            happens=f"{rows} is more than the target's {full} tokens",
            remedy=remedy,
        )
    elif rows < full:
        yield note(
            key,
            [SGLANG],
            happens="refuses --speculative-use-rejection-sampling, which needs the whole "
            f"vocabulary (here {rows} of {full}) and topk 1",
            remedy="leave the flag out, or train a head with the whole vocabulary",
        )


def check_aux_states(head: SavedHead, target: Target | None) -> Findings:
    """Check how many aux hidden states the head reads, and that they are fed at all."""
    key = "num_aux_hidden_states"
    if head.num_aux != 3:
        yield error(
            key,
            [engine for engine in SERVERS if engine.num_aux_states == 3],
            happens=f"reads exactly three states of the target, not {head.num_aux}",
            remedy="serve it with vLLM or SGLang",
            limit=True,
        )
    # Without the key engines assume three, or count the nested list.
    states = _states_of_fc(head)
    if key not in head.config and states is not None and states != head.num_aux:
        yield error(
            key,
            [VLLM, SGLANG],
            happens=f"absent, so fc is built for {head.num_aux} states; the weights are for "
            f"{states:g}",
            remedy="write how many states fc reads",
            source="vllm#54526",
        )
    if head.table("eagle_config").get("use_aux_hidden_state") is False:
        yield error(
            "eagle_config.use_aux_hidden_state",
            [VLLM, SGLANG],
            happens="false: the target's last state alone is fed, and fc is left out",
            remedy="write true",
        )


def _states_of_fc(head: SavedHead) -> float | None:
    """How many states the stored fc [H, states * H] reads; None where that cannot be told."""
    fc = head.tensors.get("fc.weight")
    width = head.size("target_hidden_size") or head.hidden_size
    if fc is None or width is None or len(fc.shape) != 2:
        return None
    return fc.shape[1] / width
