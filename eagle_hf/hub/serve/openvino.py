"""OpenVINO GenAI: target and drafter are exported, and a script generates from both."""

import shlex
from typing import Any

from eagle_hf.hub.engines import OPTIMUM_INTEL_VERSION
from eagle_hf.hub.serve.command import LOOKUP, Caveat, Request

EXPORT = [
    "optimum-cli",
    "export",
    "openvino",
    "--task",
    "text-generation-with-past",
    "--weight-format",
    "fp32",
]
# GenAI finds layers by the names in the exported graph, one layer further than heads are trained
# on. So every name is given the number of the next.
RENAME = """import re, pathlib
graph = pathlib.Path({graph!r})
name = r'(?<=name="__module\\.model\\.layers\\.)\\d+(?=/aten::add/Add_1")'
graph.write_text(re.sub(name, lambda layer: str(int(layer[0]) + 1), graph.read_text()))"""


def build(request: Request) -> tuple[list[str], list[Caveat]]:
    """(the script, what to know)."""
    target_name, drafter_name = request.file_names
    target_folder = f"{target_name}-openvino"
    drafter_folder = f"{drafter_name}-openvino"
    is_head = request.config is not None
    lines = [shlex.join([*EXPORT, "--model", request.target, target_folder])]
    if is_head:
        lines.append(_as_python(RENAME.format(graph=f"{target_folder}/openvino_model.xml")))
    if request.head is not None:
        # The class of heads is optimum's own, and no part of transformers.
        trust = ["--trust-remote-code"] if is_head else []
        lines.append(shlex.join([*EXPORT, *trust, "--model", request.head, drafter_folder]))
    lines.append(_as_python(_generate(request, target_folder, drafter_folder)))
    return lines, _list_caveats(request)


def _as_python(script: str) -> str:
    """The shell's line that runs a script."""
    return f"python - <<'END'\n{script}\nEND"


def _generate(request: Request, target_folder: str, drafter_folder: str) -> str:
    """The script that generates."""
    drafter = "prompt_lookup=True"
    if request.head is not None:
        drafter = f"draft_model=genai.draft_model({drafter_folder!r}, 'CPU')"
    options = _generation_options(request)
    settings = ", ".join(f"{name}={value}" for name, value in options.items())
    return (
        "import openvino_genai as genai\n"
        f"pipeline = genai.LLMPipeline({target_folder!r}, 'CPU', {drafter})\n"
        f"print(pipeline.generate('Why is the sky blue?', max_new_tokens=256, {settings}))"
    )


def _generation_options(request: Request) -> dict[str, Any]:
    """How much is drafted a round."""
    tree = request.tree
    options = {"num_assistant_tokens": request.num_drafts}
    if request.method == "ngram":
        options["max_ngram_size"] = LOOKUP
    # A chain needs no more than its length.
    elif tree.top_k > 1:
        options["tree_depth"] = min(tree.depth, request.num_drafts)
        options["branching_factor"] = tree.top_k
    return options


def _list_caveats(request: Request) -> list[Caveat]:
    """What to know, in the order in which it matters."""
    caveats = request.cite_run(
        "It was run in an environment of its own, with optimum-intel "
        f"{OPTIMUM_INTEL_VERSION} and transformers 5.5.4."
    )
    if request.config is None:
        return caveats
    caveats += request.cite_read(
        "--trust-remote-code is for optimum's class of heads, but runs the head's own code too: "
        "look into what is not yours.",
        "Greedy decoding only, exactly three states, targets of ten layers or more.",
    )
    caveats += request.cite_run(
        "It takes what leaves the layers (2, n//2, n-3), one further than heads are trained on, "
        "and finds them by name: the script moves the names in the exported target by one, once. "
        "Then chains and trees accepted what generate accepts, seen with a Llama.",
        "On CPUs it keeps keys and values in eight bits; with them a tree changed the text in "
        "float32. LLMPipeline(..., KV_CACHE_PRECISION='f32') keeps them whole.",
    )
    return caveats
