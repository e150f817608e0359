"""Which of the target's states an engine feeds the head: the same list of numbers means different layers to different engines.

Everything here is compared as HF `hidden_states` indices. vLLM and llama.cpp read the top level of config.json as such indices; SGLang
reads the list nested in `eagle_config` as outputs of 0-based layers, one lower; an engine that finds no list takes (2, n//2, n-3).
"""

from collections.abc import Iterator

from eagle_hf.head.layouts import LAYER_IDS_KEY, foreign_layer_ids
from eagle_hf.hub.export import AS_GIVEN
from eagle_hf.hub.findings import (
    EAGLE_HF,
    ENGINES,
    LLAMA_CPP,
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

NESTED = f"eagle_config.{LAYER_IDS_KEY}"
REMEDY = f"write HF indices at the top level and each one lower inside eagle_config, or neither for (2, n//2, n-3): {MEND_WITH}"


def named_layers(head: SavedHead) -> tuple[list[int] | None, list[int] | None]:
    """The lists at the top level and inside eagle_config, as written; None for what is absent, empty or no list of integers."""
    return _ids(head.raw.get(LAYER_IDS_KEY)), _ids(head.table("eagle_config").get(LAYER_IDS_KEY))


def _ids(value) -> list[int] | None:
    return (
        value
        if isinstance(value, list)
        and value
        and all(type(index) is int and abs(index) < 2**16 for index in value)
        else None
    )


def trained_layers(head: SavedHead, layers: int | None, family: str | None) -> list[int] | None:
    """HF indices that the head was trained on: by our own key, else by the meaning of the lists where they are written."""
    top, nested = named_layers(head)
    return (
        _ids(head.table("eagle_hf").get("aux_layer_ids"))
        or top
        or (sglang_layers(nested, layers, family) if nested else None)
    )


def family_of(target: Target | None) -> str | None:
    """The target's class, by which SGLang decides what a list means."""
    names = target.config.get("architectures") if target else None
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def depth(head: SavedHead, target: Target | None) -> int | None:
    """How many layers the target has; None where nothing says so."""
    layers = (target.config if target else head.table("eagle_hf")).get(
        "num_hidden_layers" if target else "target_num_hidden_layers"
    )
    return layers if type(layers) is int and layers >= 3 else None


def engine_layers(
    head: SavedHead, layers: int | None, family: str | None
) -> dict[str, list[int] | None]:
    """HF indices that each engine feeds this head; None: its default, of a target of unknown depth."""
    top, nested = named_layers(head)
    default = [2, layers // 2, layers - 3] if layers else None
    shifted = sglang_layers(nested, layers, family) if nested else default
    own = (
        _ids(head.table("eagle_hf").get("aux_layer_ids"))
        or foreign_layer_ids(top, {LAYER_IDS_KEY: nested})
        or default
    )
    further = [index + 1 for index in default] if default else None  # what leaves those layers
    return {
        EAGLE_HF: own,
        VLLM: top or default,
        SGLANG: shifted,
        LLAMA_CPP: top or default,
        OPENVINO: further,
    }


def sglang_layers(nested: list[int], layers: int | None, family: str | None) -> list[int]:
    """HF indices of SGLang's nested list, whose meaning depends on the target's class."""
    if (family in AS_GIVEN and nested[0] != 1) or (
        family == "GptOssForCausalLM" and max(nested) == layers
    ):
        return list(nested)
    return [index + 1 for index in nested]


def nested_ids(trained: list[int], layers: int | None, family: str | None) -> list[int] | None:
    """The list that makes SGLang feed these HF indices; None where there is none (the embeddings have no number)."""
    candidates = ([index - 1 for index in trained], trained)
    return next(
        (
            ids
            for ids in candidates
            if min(ids) >= 0 and sglang_layers(ids, layers, family) == trained
        ),
        None,
    )


def layer_ids(head: SavedHead, target: Target | None) -> Iterator[Finding]:
    """Findings about the layer ids, from a head that names none to two lists that contradict each other."""
    (top, nested), layers, family = named_layers(head), depth(head, target), family_of(target)
    trained = trained_layers(head, layers, family)
    if trained is None:
        happens = "no layers are named, so (2, n//2, n-3) are fed, silently; a head trained on others is accepted next to never"
        yield warning(
            LAYER_IDS_KEY,
            ENGINES,
            happens,
            f"ask what it was trained on; {REMEDY}",
            "vllm#50170: 1.2 % of drafts accepted against 58.9 %",
        )
        return
    yield from _impossible(head, trained, layers)
    unknown = tuple(
        engine for engine, ids in engine_layers(head, layers, family).items() if ids is None
    )
    if unknown:
        happens = f"trained on the states {trained}; finds no list, and feeds (2, n//2, n-3), which are the same for some depths of the target only"
        yield warning(LAYER_IDS_KEY, unknown, happens, "check it against its target: --target")
    yield from _fed(head, trained, layers, family)
    yield from _shifted(head, top, nested, layers)


def _impossible(head: SavedHead, trained: list[int], layers: int | None) -> Iterator[Finding]:
    """Lists that no engine can follow."""
    if len(trained) != head.num_aux:
        happens = f"{len(trained)} layers are named, but fc is built for {head.num_aux} states: the first round stops with a shape error"
        yield error(
            LAYER_IDS_KEY,
            SERVERS,
            happens,
            "name one layer for each state, and their number as num_aux_hidden_states",
            "vllm#54526",
        )
    if trained != sorted(set(trained)):
        happens = f"{trained}: servers feed every state once and in ascending order"
        yield error(
            LAYER_IDS_KEY,
            SERVERS,
            happens,
            "use eagle_hf, or train on ascending layers",
            limit=True,
        )
    outside = [index for index in trained if index < 0 or (layers and index >= layers)]
    if outside:
        happens = f"state {outside[0]} is read, but the target has the states 0 to {layers - 1 if layers else 'n-1'} before its last norm"
        yield error(
            LAYER_IDS_KEY, ENGINES, happens, "use the target that this head was trained for"
        )


def _fed(
    head: SavedHead, trained: list[int], layers: int | None, family: str | None
) -> Iterator[Finding]:
    """Who feeds other states than the head was trained on."""
    top, nested = named_layers(head)
    wrong = {
        engine: ids
        for engine, ids in engine_layers(head, layers, family).items()
        if ids is not None and ids != trained
    }
    for group in ((EAGLE_HF, VLLM, LLAMA_CPP), (SGLANG,)):
        engines = tuple(engine for engine in group if engine in wrong)
        if engines:
            fed = " or ".join(dict.fromkeys(str(wrong[engine]) for engine in engines))
            yield error(
                NESTED if group == (SGLANG,) else LAYER_IDS_KEY,
                engines,
                f"feeds the states {fed}; the head was trained on {trained}, and its drafts are hardly accepted",
                REMEDY,
                "sglang#25454, vllm#43671: one layer off gave 10 % instead of 45 % at the first position",
                limit=group == (SGLANG,) and nested_ids(trained, layers, family) is None,
            )
    if nested and not top and nested != trained:
        happens = f"the older runner, which the CPU has, reads the nested list as it is: the states {nested} instead of {trained}"
        yield error(NESTED, (VLLM,), happens, REMEDY, "vLLM 0.32.0, run")
    if OPENVINO in wrong:
        happens = f"feeds the states {wrong[OPENVINO]} of any such target; the head was trained on {trained}"
        if trained == [index - 1 for index in wrong[OPENVINO]]:
            remedy = "move the names of the exported target's layers by one, as eagle-hf serve-command HEAD --engine openvino does"
            yield note(LAYER_IDS_KEY, (OPENVINO,), happens, remedy, "2026.4.1, run")
        else:
            yield warning(
                LAYER_IDS_KEY, (OPENVINO,), happens, "use another engine", "2026.4.1, run"
            )


def _shifted(
    head: SavedHead, top: list[int] | None, nested: list[int] | None, layers: int | None
) -> Iterator[Finding]:
    """Lists that look one off, where nothing else says what the head was trained on."""
    default = [2, layers // 2, layers - 3] if layers else None
    if head.table("eagle_hf").get("aux_layer_ids") or (top and nested):
        return
    if top and [index + 1 for index in top] == default:
        happens = f"{top} are read as states, and look like the default {default} counted as outputs of layers, one lower"
        yield warning(
            LAYER_IDS_KEY,
            (VLLM, LLAMA_CPP),
            happens,
            f"if so, leave them out: {REMEDY}",
            "sglang#25454, vllm#43671",
        )
    if nested and nested == default:
        happens = f"{nested} are read as outputs of layers, and look like the default, which is one lower here"
        yield warning(
            NESTED,
            (SGLANG,),
            happens,
            f"if so, leave them out: {REMEDY}",
            "sglang#25454, vllm#43671",
        )
