"""How a head is launched: windows and trees that it was saved with, and what no folder shows."""

from eagle_hf.hub.check.findings import Findings, note, shown, warning
from eagle_hf.hub.engines import LLAMA_CPP, OPENVINO, SGLANG, VLLM
from eagle_hf.hub.saved_head import SavedHead
from eagle_hf.hub.saved_target import Target


def check_window(head: SavedHead, target: Target | None) -> Findings:
    """Check windows: by the engines' own keys, and by ours, which no engine reads."""
    if _has_window(head):
        size = head.size("sliding_window")
        yield warning(
            "sliding_window",
            [SGLANG, LLAMA_CPP, OPENVINO],
            happens=f"the window of {shown(size)} tokens is ignored: beyond it the head sees more "
            "than it was trained with",
            remedy=f"SGLang: --speculative-draft-window-size {shown(size)}; else keep contexts "
            "short, or serve it with vLLM",
        )
    # Our own key: no engine reads it, so a user has to know.
    trained = head.table("eagle_hf").get("trained_length")
    if trained:
        yield note(
            "eagle_hf.trained_length",
            [VLLM, SGLANG],
            happens=f"trained on conversations of up to {shown(trained)} tokens; without a window "
            "acceptance decays beyond",
            remedy=f"SGLang: --speculative-draft-window-size {shown(trained)}; vLLM has no such "
            "flag",
        )


def _has_window(head: SavedHead) -> bool:
    """Whether the head's attention is windowed, by either of two keys."""
    # Some configs keep the size of a window that they switch off.
    is_switched_on = head.config.get("use_sliding_window", True) is not False
    if head.size("sliding_window") and is_switched_on:
        return True
    # Newer configs name the kind of attention of each layer.
    kinds = head.config.get("layer_types")
    return isinstance(kinds, list) and "sliding_attention" in kinds


def check_tree(head: SavedHead, target: Target | None) -> Findings:
    """Check for a tree, which only eagle_hf reads from the config."""
    tree = head.table("eagle_hf").get("tree")
    # A head without a saved tree drafts the default one, which is no chain.
    is_chain = isinstance(tree, dict) and tree.get("policy", "dynamic") == "chain"
    if not is_chain:
        yield note(
            "eagle_hf.tree",
            [VLLM, SGLANG],
            happens="tree settings are read by eagle_hf alone: vLLM drafts chains, SGLang trees by "
            "its flags",
            remedy="give SGLang its tree on the command line: "
            "eagle-hf serve-command HEAD --engine sglang",
        )


def check_launch_flags(head: SavedHead, target: Target | None) -> Findings:
    """Name the flags that decide, which no folder shows."""
    yield note(
        "--speculative-algorithm",
        [SGLANG],
        happens="EAGLE instead of EAGLE3 loads the head and accepts exactly 1.00 token per round, "
        "with no error",
        remedy="give EAGLE3",
        source="sglang#21272",
    )
    yield note(
        "--speculative-config",
        [VLLM],
        happens='the method is guessed only from a path that contains "eagle3"',
        remedy='give "method": "eagle3" always',
    )
    yield note(
        "--target-model-dir",
        [LLAMA_CPP],
        happens="the converter takes the tokenizer and the number of layers from the target's "
        "folder",
        remedy="convert_hf_to_gguf.py HEAD --target-model-dir TARGET",
    )
