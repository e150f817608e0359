"""What a head shares with its target: vocabulary, width, depth, length, tokens, template."""

from typing import Any

from eagle_hf.head.dialects import TOKENS as SPECIAL_TOKENS
from eagle_hf.hub.check.findings import Findings, error, note, shown, warning
from eagle_hf.hub.engines import ENGINES, OPENVINO, SGLANG, VLLM
from eagle_hf.hub.layer_ids import find_depth
from eagle_hf.hub.saved_head import SavedHead
from eagle_hf.hub.saved_target import Target

REMEDY = "use the head that was trained for this target, or train one"


def check_fit(head: SavedHead, target: Target | None) -> Findings:
    """Check the sizes that a head shares with its target."""
    if target is None:
        return
    yield from _check_same_size(
        "vocab_size",
        head.size("vocab_size"),
        target.config.get("vocab_size"),
        source="EAGLE#249, EAGLE#214",
        remedy=f"{REMEDY}; where its embeddings were resized, export the head with --vocab-size",
    )
    yield from _check_same_size(
        "target_hidden_size",
        # Absent, it is the head's own width.
        head.size("target_hidden_size") or head.hidden_size,
        target.config.get("hidden_size"),
        source="vllm#18906",
    )
    layers = head.table("eagle_hf").get("target_num_hidden_layers")
    if layers is not None:  # only heads of ours know it
        yield from _check_same_size(
            "eagle_hf.target_num_hidden_layers", layers, find_depth(head, target)
        )


def _check_same_size(
    key: str, ours: Any, theirs: Any, source: str = "", remedy: str = REMEDY
) -> Findings:
    """Check one size against the target's."""
    if ours != theirs:
        yield error(
            key,
            ENGINES,
            happens=f"{shown(ours)}, but the target's is {shown(theirs)}: loading stops, or drafts "
            "are noise",
            remedy=remedy,
            source=source,
        )


def check_length(head: SavedHead, target: Target | None) -> Findings:
    """Check that the head takes texts as long as the target does."""
    if target is None:
        return
    ours = head.size("max_position_embeddings")
    theirs = target.config.get("max_position_embeddings")
    if ours is not None and type(theirs) is int and ours < theirs:
        yield error(
            "max_position_embeddings",
            [VLLM, SGLANG],
            happens=f"{ours}, the target's is {theirs}: SGLang refuses the head, older vLLM stops "
            "at the first longer text",
            remedy=f"write {theirs}",
            source="vllm#48894, sglang#6783",
        )


def check_special_tokens(head: SavedHead, target: Target | None) -> Findings:
    """Check the special tokens against the vocabulary, and against the target's."""
    full = head.size("vocab_size")
    for key in SPECIAL_TOKENS:
        ours = head.config.get(key)
        if full is not None and _is_beyond(ours, full):
            yield warning(
                key,
                [OPENVINO],
                happens=f"{shown(ours)} is beyond the vocabulary of {full} tokens: the export "
                "stops",
                remedy="write the target's",
            )
        elif target is not None and key in target.config and key in head.config:
            theirs = target.config[key]
            if ours != theirs:
                yield warning(
                    key,
                    [VLLM, OPENVINO],
                    happens=f"{shown(ours)}, the target's is {shown(theirs)}",
                    remedy="write the target's",
                )


def _is_beyond(value: Any, full: int) -> bool:
    """Whether a token id, or one of a list of them, lies beyond a vocabulary of `full` tokens."""
    tokens = value if isinstance(value, list) else [value]
    # By the exact type: True is no token id.
    return any(type(token) is int and token >= full for token in tokens)


def check_chat_template(head: SavedHead, target: Target | None) -> Findings:
    """Check the chat template, where both have one."""
    theirs = target.template if target else None
    # Neither can tell alone, so the user is asked to compare.
    if not head.template or not theirs:
        yield note(
            "chat_template",
            ENGINES,
            happens="a head is accepted as in training only under the chat template, and the "
            "thinking mode, that it was trained with",
            remedy="compare the template of its training data with the one served",
            source="SpecForge#296",
        )
    elif head.template.strip() != theirs.strip():
        yield warning(
            "chat_template",
            ENGINES,
            happens="another chat template than the target's: a head trained with one loses "
            "acceptance under the other",
            remedy="serve with the template it was trained with",
            source="SpecForge#296",
        )
