"""RoPE by itself and against the target's, and what else of a head has to be its target's: vocabulary, width, length, tokens, template."""

from collections.abc import Iterator
from typing import Any

from eagle_hf.hub.check_layers import depth
from eagle_hf.hub.findings import (
    ENGINES,
    MEND,
    OPENVINO,
    SERVERS,
    SGLANG,
    VLLM,
    Finding,
    error,
    note,
    shown,
    warning,
)
from eagle_hf.hub.saved import SavedHead, Target

OTHER = "use the head that was trained for this target, or train one"
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
DROPPED = "speculators#574, sglang#21397"


def fits(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Sizes that a head shares with its target."""
    if target is None:
        return
    shared = {
        "vocab_size": (
            head.size("vocab_size"),
            target.config.get("vocab_size"),
            "EAGLE#249, EAGLE#214",
        ),
        "target_hidden_size": (
            head.size("target_hidden_size") or head.hidden_size,
            target.config.get("hidden_size"),
            "vllm#18906",
        ),
        "eagle_hf.target_num_hidden_layers": (
            head.table("eagle_hf").get("target_num_hidden_layers"),
            depth(head, target),
            "",
        ),
    }
    for key, (ours, theirs, source) in shared.items():
        if ours != theirs and not (ours is None and key.startswith("eagle_hf")):
            happens = f"{shown(ours)}, but the target's is {shown(theirs)}: loading stops, or drafts are noise"
            yield error(key, ENGINES, happens, OTHER, source)


def _table(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def rope_of(config: dict[str, Any]) -> tuple[Any, Any]:
    """(theta, type) of RoPE in either schema; theta None where it is not written. Of several kinds of layers, those with full attention."""
    now, legacy = _table(config, "rope_parameters"), _table(config, "rope_scaling")
    now = _table(now, "full_attention") or now
    return now.get("rope_theta", config.get("rope_theta")), _kind(
        now if "rope_type" in now else legacy
    )


def _kind(table: dict[str, Any]) -> Any:
    return table.get("rope_type", table.get("type", "default"))


def rope_schemas(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Both schemas must be there and say the same: engines of different ages read different ones."""
    now, older = _table(head.config, "rope_parameters"), _table(head.config, "rope_scaling")
    theta, legacy = now.get("rope_theta"), head.config.get("rope_theta")
    if theta is None and legacy is None:
        happens = "absent in both schemas, so 10000 is taken; a head trained at another base loses acceptance with the distance"
        yield warning(
            "rope_theta",
            ENGINES,
            happens,
            "write the base it was trained at as rope_parameters.rope_theta and as rope_theta",
            DROPPED,
        )
    elif legacy is None:
        happens = "RoPE is written as rope_parameters alone; older servers read rope_theta alone, and take 10000 where it is absent"
        yield warning("rope_theta", SERVERS, happens, f"write both: {MEND}", DROPPED)
    elif theta is None:
        yield note(
            "rope_parameters",
            SERVERS,
            "absent; newer servers make it of rope_theta and rope_scaling",
            f"write both: {MEND}",
        )
    elif theta != legacy:
        happens = f"{shown(legacy)}, but rope_parameters.rope_theta is {shown(theta)}: which is read depends on the server"
        yield error("rope_theta", SERVERS, happens, "write the base it was trained at in both")
    if now and _kind(now) != _kind(older):
        happens = f"{shown(_kind(older))}, but rope_parameters.rope_type is {shown(_kind(now))}: which is read depends on the server"
        yield error(
            "rope_scaling", SERVERS, happens, "write the scaling it was trained with in both"
        )
    if "yarn" in (_kind(now), _kind(older)):
        happens = "yarn caps the whole engine's length at this head's max_position_embeddings"
        yield warning(
            "rope_parameters.rope_type",
            (VLLM,),
            happens,
            "write max_position_embeddings as the target's",
        )


def positions(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """RoPE and the longest text, against the target's."""
    if target is None:
        return
    own = (
        "eagle_hf" in head.raw
    )  # trained and served by one config: another RoPE than the target's is as good
    ask = "ask what it was trained at; converters drop the target's, the authors' trainer takes 10000 always"
    remedy = "nothing: it was trained as its config says" if own else ask
    for key, ours, theirs in zip(
        ("rope_theta", "rope_parameters.rope_type"), rope_of(head.config), rope_of(target.config)
    ):
        if ours is not None and theirs is not None and ours != theirs:
            happens = f"{shown(ours)}, the target's is {shown(theirs)}; served at another RoPE than it was trained at, a head loses acceptance"
            yield (note if own else warning)(key, SERVERS, happens, remedy, DROPPED)
    ours, theirs = (
        head.size("max_position_embeddings"),
        target.config.get("max_position_embeddings"),
    )
    if ours and type(theirs) is int and ours < theirs:
        happens = f"{ours}, the target's is {theirs}: SGLang refuses the head, older vLLM stops at the first longer text"
        yield error(
            "max_position_embeddings",
            (VLLM, SGLANG),
            happens,
            f"write {theirs}",
            "vllm#48894, sglang#6783",
        )


def special_tokens(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    full = head.size("vocab_size")
    for key in TOKENS:
        ours = head.config.get(key)
        if full and any(
            type(token) is int and token >= full
            for token in (ours if isinstance(ours, list) else [ours])
        ):
            yield warning(
                key,
                (OPENVINO,),
                f"{shown(ours)} is beyond the vocabulary of {full} tokens: the export stops",
                "write the target's",
            )
        elif target and key in target.config and key in head.config and ours != target.config[key]:
            yield warning(
                key,
                (VLLM, OPENVINO),
                f"{shown(ours)}, the target's is {shown(target.config[key])}",
                "write the target's",
            )


def template(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    if not (head.template and target and target.template):
        happens = "a head is accepted as in training only under the chat template, and the thinking mode, that it was trained with"
        yield note(
            "chat_template",
            ENGINES,
            happens,
            "compare the template of its training data with the one served",
            "SpecForge#296",
        )
    elif head.template.strip() != target.template.strip():
        happens = "another chat template than the target's: a head trained with one loses acceptance under the other"
        yield warning(
            "chat_template",
            ENGINES,
            happens,
            "serve with the template it was trained with",
            "SpecForge#296",
        )


RULES = (fits, rope_schemas, positions, special_tokens, template)
