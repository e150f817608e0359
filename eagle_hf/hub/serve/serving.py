"""Build the command for an engine: check what is asked for, fit the tree, write the script."""

import shlex
from collections.abc import Callable
from pathlib import Path

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.dialects import recognise
from eagle_hf.head.opening import read_config
from eagle_hf.head.trees import TreeConfig
from eagle_hf.hub.engines import (
    LLAMA_CPP,
    METHODS,
    OPENVINO,
    SERVER_OF_KEY,
    SGLANG,
    VLLM,
    Engine,
    LayerIds,
)
from eagle_hf.hub.export.layer_ids import other_layers
from eagle_hf.hub.export.support import check_engine
from eagle_hf.hub.serve import llamacpp, openvino, sglang, vllm
from eagle_hf.hub.serve.command import Caveat, Request, ServeCommand, file_name
from eagle_hf.hub.serve.heads import list_head_caveats
from eagle_hf.hub.serve.trees import fit_tree

Builder = Callable[[Request], tuple[list[str], list[Caveat]]]

BUILDERS: dict[Engine, Builder] = {
    VLLM: vllm.build,
    SGLANG: sglang.build,
    LLAMA_CPP: llamacpp.build,
    OPENVINO: openvino.build,
}
CHAIN = TreeConfig("chain", depth=4)  # of drafters that save no tree


def head_settings(head: str | Path) -> tuple[Eagle3Config, str]:
    """Read a head's config.json; its weights are not looked at.

    Args:
        head: Folder or hub id.

    Returns:
        The config, and the dialect that it is written in.

    Raises:
        ValueError, OSError: There is no config.json of an EAGLE-3 head.
    """
    raw = read_config(head, {})
    return Eagle3Config.from_dict(raw), recognise(raw, ())


def serve_command(
    target: str,
    head: str | None,
    engine: str,
    method: str = "eagle3",
    config: Eagle3Config | None = None,
    dialect: str = "eagle_hf",
    tree: TreeConfig | None = None,
    tp: int = 1,
) -> ServeCommand:
    """Build the command that serves `target` on an engine with a drafter.

    Args:
        target: Hub id or folder of the target.
        head: That of the draft head; with "draft-model" of a smaller model; None with "ngram".
        engine: "vllm", "sglang", "llamacpp" or "openvino".
        method: "eagle3", "draft-model" or "ngram".
        config: Of the draft head, from `head_settings`.
        dialect: Likewise.
        tree: A tree instead of the head's own.
        tp: GPUs that share the target.

    Returns:
        The script and its caveats. A saved tree that the engine cannot draft is one of these.

    Raises:
        ValueError: The engine cannot do what is asked for, or would compute the head otherwise.
    """
    # 1) refuse what the engine cannot do
    server = _check_engine_and_method(engine, method)
    _check_drafter(head, method, config)
    _check_target_and_tp(target, tp, server)
    if config is not None:
        _check_head(config, server)
    # 2) the nearest tree
    saved_tree = CHAIN if config is None else config.tree
    fitting_tree, caveats = fit_tree(server, method, tree, saved_tree, config)
    # 3) another folder, where the engine needs one
    served = None if head is None else str(head)
    lines = []
    if head is not None and config is not None and _needs_export(config, dialect, server):
        served = f"{file_name(head)}-{engine}"
        command = ["eagle-hf", "export", str(head), "--to", engine]
        command += ["--target", str(target), "--out", served]
        lines.append(shlex.join(command))
    # 4) the engine's own script, and what to know
    request = Request(server, str(target), served, method, fitting_tree, tp, config)
    script, engine_caveats = BUILDERS[server](request)
    caveats += engine_caveats
    if config is not None:
        caveats += list_head_caveats(server, config)
    version = f"{server.read}; {server.run}"
    return ServeCommand(engine, version, tuple(lines + script), tuple(caveats))


def _needs_export(config: Eagle3Config, dialect: str, server: Engine) -> bool:
    """Whether the engine needs another folder than the head's own."""
    if server.layer_ids is LayerIds.EAGLE_CONFIG and other_layers(config):
        return True  # the ids that it counts by depend on the target
    if dialect == "speculators" and server.serves_speculators:
        return False
    return dialect != "eagle_hf"


def _check_engine_and_method(engine: str, method: str) -> Engine:
    """The engine; a ValueError for one, or a method, that is not known."""
    if engine not in SERVER_OF_KEY or method not in METHODS:
        raise ValueError(
            f"engine is {engine!r} and method {method!r}; known are {', '.join(SERVER_OF_KEY)}, "
            f"and {', '.join(METHODS)}"
        )
    return SERVER_OF_KEY[engine]


def _check_drafter(head: str | None, method: str, config: Eagle3Config | None) -> None:
    """Raise a ValueError for a drafter that is none of the method."""
    needs_drafter = method != "ngram"
    needs_config = method == "eagle3"
    if (head is not None) != needs_drafter or (config is not None) != needs_config:
        raise ValueError(
            f"method is {method} and head {head}; "
            "eagle3 takes a draft head, draft-model a smaller model, ngram neither"
        )


def _check_target_and_tp(target: str, tp: int, server: Engine) -> None:
    """Raise a ValueError for a target or a number of GPUs that the engine does not take."""
    if str(target).endswith(".gguf"):
        raise ValueError(f"{target} is a GGUF; give the hub id or folder that it was made from")
    is_number = type(tp) is int and tp >= 1
    if not is_number or (tp > 1 and not server.is_sharded_by_number):
        wanted = "1: this engine has settings of its own for several devices"
        if server.is_sharded_by_number:
            wanted = "a number of GPUs"
        raise ValueError(f"tp is {tp!r}; {server.full_name} takes {wanted}")


def _check_head(config: Eagle3Config, server: Engine) -> None:
    """Raise a ValueError for a head that the engine would compute otherwise."""
    check_engine(config, server)
    ids = other_layers(config) if server.layer_ids is LayerIds.FIXED else None
    if ids:
        raise ValueError(
            f"OpenVINO GenAI reads the layers (2, n//2, n-3) of any target, this head {ids}; "
            "use another engine"
        )
