"""RoPE of a head, by itself and against the target's.

Two schemas are in use: today's `rope_parameters`, and the legacy `rope_theta` with `rope_scaling`.
Engines of different ages read different ones, so both must be there and say the same.
"""

from typing import Any

from eagle_hf.hub.check.findings import FIX, Findings, error, note, shown, warning
from eagle_hf.hub.engines import ENGINES, SERVERS, VLLM
from eagle_hf.hub.saved_head import SavedHead
from eagle_hf.hub.saved_target import Target

DROPPED = "speculators#574, sglang#21397"  # reports of RoPE that was lost on the way


def read_rope(config: dict[str, Any]) -> tuple[Any, Any]:
    """(theta, type) of RoPE in either schema; theta is None where it is not written.

    Of several kinds of layers, those with full attention count.
    """
    now = _table(config, "rope_parameters")
    # Targets with two kinds of attention have a table for each.
    now = _table(now, "full_attention") or now
    theta = now.get("rope_theta", config.get("rope_theta"))
    legacy = _table(config, "rope_scaling")
    return theta, _rope_type(now if "rope_type" in now else legacy)


def _table(config: dict[str, Any], key: str) -> dict[str, Any]:
    """The table under a key; empty where there is none."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _rope_type(table: dict[str, Any]) -> Any:
    """The type of RoPE in a table of either schema."""
    return table.get("rope_type", table.get("type", "default"))


def check_rope_schemas(head: SavedHead, target: Target | None) -> Findings:
    """Check that both schemas are there and say the same."""
    yield from _check_theta(head)
    now = _table(head.config, "rope_parameters")
    type_now = _rope_type(now)
    type_legacy = _rope_type(_table(head.config, "rope_scaling"))
    # Without today's schema there is only one to believe.
    if now and type_now != type_legacy:
        yield error(
            "rope_scaling",
            SERVERS,
            happens=f"{shown(type_legacy)}, but rope_parameters.rope_type is {shown(type_now)}: "
            "which is read depends on the server",
            remedy="write the scaling it was trained with in both",
        )
    if "yarn" in (type_now, type_legacy):
        yield warning(
            "rope_parameters.rope_type",
            [VLLM],
            happens="yarn caps the whole engine's length at this head's max_position_embeddings",
            remedy="write max_position_embeddings as the target's",
        )


def _check_theta(head: SavedHead) -> Findings:
    """Check the base of RoPE in both schemas."""
    theta = _table(head.config, "rope_parameters").get("rope_theta")
    legacy = head.config.get("rope_theta")
    if theta is None and legacy is None:
        yield warning(
            "rope_theta",
            ENGINES,
            happens="absent in both schemas, so 10000 is taken; a head trained at another base "
            "loses acceptance with the distance",
            remedy="write the base it was trained at as rope_parameters.rope_theta and as "
            "rope_theta",
            source=DROPPED,
        )
    elif legacy is None:
        yield warning(
            "rope_theta",
            SERVERS,
            happens="RoPE is written as rope_parameters alone; older servers read rope_theta "
            "alone, and take 10000 where it is absent",
            remedy=f"write both: {FIX}",
            source=DROPPED,
        )
    elif theta is None:
        yield note(
            "rope_parameters",
            SERVERS,
            happens="absent; newer servers make it of rope_theta and rope_scaling",
            remedy=f"write both: {FIX}",
        )
    elif theta != legacy:
        yield error(
            "rope_theta",
            SERVERS,
            happens=f"{shown(legacy)}, but rope_parameters.rope_theta is {shown(theta)}: "
            "which is read depends on the server",
            remedy="write the base it was trained at in both",
        )


def check_rope_against_target(head: SavedHead, target: Target | None) -> Findings:
    """Check that RoPE is the target's: converters lose it, and one trainer never takes it over."""
    if target is None:
        return
    theta, rope_type = read_rope(head.config)
    target_theta, target_rope_type = read_rope(target.config)
    yield from _check_same(head, "rope_theta", theta, target_theta)
    yield from _check_same(head, "rope_parameters.rope_type", rope_type, target_rope_type)


def _check_same(head: SavedHead, key: str, ours: Any, theirs: Any) -> Findings:
    """Check one value of RoPE against the target's, where both are known."""
    if ours is None or theirs is None or ours == theirs:
        return
    happens = (
        f"{shown(ours)}, the target's is {shown(theirs)}; served at another RoPE than it was "
        "trained at, a head loses acceptance"
    )
    # A head of ours was trained and is served by one config: another RoPE is as good.
    if "eagle_hf" in head.raw:
        remedy = "nothing: it was trained as its config says"
        yield note(key, SERVERS, happens, remedy, source=DROPPED)
    else:
        remedy = (
            "ask what it was trained at; converters drop the target's, the authors' trainer "
            "takes 10000 always"
        )
        yield warning(key, SERVERS, happens, remedy, source=DROPPED)
