"""Rules for layer ids, from a head that names no layers to two lists that contradict each other."""

from eagle_hf.head.layouts import LAYER_IDS_KEY
from eagle_hf.hub.check.findings import (
    FIX_WITH_TARGET,
    Findings,
    error,
    note,
    warning,
)
from eagle_hf.hub.engines import (
    EAGLE_HF,
    ENGINES,
    GENAI_VERSION,
    LLAMA_CPP,
    OPENVINO,
    SERVERS,
    SGLANG,
    VLLM,
    VLLM_CPU_VERSION,
    Engine,
)
from eagle_hf.hub.layer_ids import (
    Ids,
    default_layers,
    find_depth,
    find_family,
    nested_ids,
    read_layers,
    read_nested_ids,
    read_top_level_ids,
    trained_layers,
)
from eagle_hf.hub.saved_head import SavedHead
from eagle_hf.hub.saved_target import Target

NESTED_KEY = f"eagle_config.{LAYER_IDS_KEY}"
WRITE_BOTH = (
    "write HF indices at the top level and each one lower inside eagle_config, or neither for "
    f"(2, n//2, n-3): {FIX_WITH_TARGET}"
)
ONE_OFF = "sglang#25454, vllm#43671"  # reports of lists that were one layer off


def check_layer_ids(head: SavedHead, target: Target | None) -> Findings:
    """Check that every engine reads the layers that the head was trained on."""
    layers = find_depth(head, target)
    family = find_family(target)
    trained = trained_layers(head, layers, family)
    # 1) nothing names the layers: every engine takes the default
    if trained is None:
        yield warning(
            LAYER_IDS_KEY,
            ENGINES,
            happens="no layers are named, so (2, n//2, n-3) are fed, silently; a head trained on "
            "others is accepted next to never",
            remedy=f"ask what it was trained on; {WRITE_BOTH}",
            source="vllm#50170: 1.2 % of drafts accepted against 58.9 %",
        )
        return
    # 2) lists that no engine can follow
    yield from _check_possible(head, trained, layers)
    read = read_layers(head, layers, family)
    # 3) engines that take the default of a target of unknown depth
    unknown = [engine for engine, ids in read.items() if ids is None]
    if unknown:
        yield warning(
            LAYER_IDS_KEY,
            unknown,
            happens=f"trained on the states {trained}; finds no list, and feeds (2, n//2, n-3), "
            "which are the same for some depths of the target only",
            remedy="check it against its target: --target",
        )
    # 4) engines that read other layers, by the place of their list
    wrong = {}
    for engine, ids in read.items():
        if ids is not None and ids != trained:
            wrong[engine] = ids
    is_sglang_limit = nested_ids(trained, layers, family) is None
    yield from _check_engines(wrong, [EAGLE_HF, VLLM, LLAMA_CPP], LAYER_IDS_KEY, trained)
    yield from _check_engines(wrong, [SGLANG], NESTED_KEY, trained, limit=is_sglang_limit)
    yield from _check_older_vllm(head, trained)
    if OPENVINO in wrong:
        yield from _check_openvino(wrong[OPENVINO], trained)
    # 5) lists that may be one layer off
    yield from _check_one_off(head, layers)


def _check_possible(head: SavedHead, trained: Ids, layers: int | None) -> Findings:
    """Check for lists that no engine can follow."""
    # fc is sized by the number of states, not by the list.
    if len(trained) != head.num_aux:
        yield error(
            LAYER_IDS_KEY,
            SERVERS,
            happens=f"{len(trained)} layers are named, but fc is built for {head.num_aux} states: "
            "the first round stops with a shape error",
            remedy="name one layer for each state, and their number as num_aux_hidden_states",
            source="vllm#54526",
        )
    if trained != sorted(set(trained)):
        yield error(
            LAYER_IDS_KEY,
            SERVERS,
            happens=f"{trained}: servers feed every state once and in ascending order",
            remedy="use eagle_hf, or train on ascending layers",
            limit=True,
        )
    for index in trained:
        if index < 0 or (layers is not None and index >= layers):
            # One finding is enough, so the first such index is shown.
            last = "n-1" if layers is None else layers - 1
            yield error(
                LAYER_IDS_KEY,
                ENGINES,
                happens=f"state {index} is read, but the target has the states 0 to {last} before "
                "its last norm",
                remedy="use the target that this head was trained for",
            )
            return


def _check_engines(
    wrong: dict[Engine, Ids],
    group: list[Engine],
    key: str,
    trained: Ids,
    limit: bool = False,
) -> Findings:
    """Check which engines of a group read other layers than the head was trained on."""
    engines = [engine for engine in group if engine in wrong]
    if not engines:
        return
    # Each list once, in the order of the engines.
    fed = " or ".join(dict.fromkeys(str(wrong[engine]) for engine in engines))
    yield error(
        key,
        engines,
        happens=f"feeds the states {fed}; the head was trained on {trained}, and its drafts are "
        "hardly accepted",
        remedy=WRITE_BOTH,
        source=f"{ONE_OFF}: one layer off gave 10 % instead of 45 % at the first position",
        limit=limit,
    )


def _check_older_vllm(head: SavedHead, trained: Ids) -> Findings:
    """Check a nested list that stands alone: one runner of vLLM counts it as HF does."""
    nested = read_nested_ids(head)
    if nested and not read_top_level_ids(head) and nested != trained:
        yield error(
            NESTED_KEY,
            [VLLM],
            happens="the older runner, which the CPU has, reads the nested list as it is: the "
            f"states {nested} instead of {trained}",
            remedy=WRITE_BOTH,
            source=f"vLLM {VLLM_CPU_VERSION}, run",
        )


def _check_openvino(fed: Ids, trained: Ids) -> Findings:
    """Check how far OpenVINO's layers are from the head's: a script can move one layer."""
    happens = f"feeds the states {fed} of any such target; the head was trained on {trained}"
    if trained == [index - 1 for index in fed]:
        yield note(
            LAYER_IDS_KEY,
            [OPENVINO],
            happens,
            remedy="move the names of the exported target's layers by one, as "
            "eagle-hf serve-command HEAD --engine openvino does",
            source=f"{GENAI_VERSION}, run",
        )
    else:
        yield warning(
            LAYER_IDS_KEY,
            [OPENVINO],
            happens,
            remedy="use another engine",
            source=f"{GENAI_VERSION}, run",
        )


def _check_one_off(head: SavedHead, layers: int | None) -> Findings:
    """Check for a list that looks one layer off, where nothing else says what was trained on."""
    top_level = read_top_level_ids(head)
    nested = read_nested_ids(head)
    default = default_layers(layers)
    # With both lists there is no doubt left what each was meant to be.
    is_confirmed = bool(top_level and nested)
    if head.table("eagle_hf").get("aux_layer_ids") or is_confirmed:
        return
    if top_level and [index + 1 for index in top_level] == default:
        yield warning(
            LAYER_IDS_KEY,
            [VLLM, LLAMA_CPP],
            happens=f"{top_level} are read as states, and look like the default {default} counted "
            "as outputs of layers, one lower",
            remedy=f"if so, leave them out: {WRITE_BOTH}",
            source=ONE_OFF,
        )
    if nested and nested == default:
        yield warning(
            NESTED_KEY,
            [SGLANG],
            happens=f"{nested} are read as outputs of layers, and look like the default, which is "
            "one lower here",
            remedy=f"if so, leave them out: {WRITE_BOTH}",
            source=ONE_OFF,
        )
