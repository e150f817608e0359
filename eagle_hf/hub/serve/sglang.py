"""SGLang: one command, with the drafter and its tree as flags."""

import shlex

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.hub.serve.command import Caveat, Request


def build(request: Request) -> tuple[list[str], list[Caveat]]:
    """(the script, what to know)."""
    tree = request.tree
    command = ["python", "-m", "sglang.launch_server", "--model-path", request.target]
    command += ["--speculative-algorithm", request.engine.methods[request.method]]
    if request.head is None:
        command += ["--speculative-ngram-max-bfs-breadth", str(tree.top_k)]
    else:
        command += ["--speculative-draft-model-path", request.head]
        command += ["--speculative-num-steps", str(tree.depth)]
        command += ["--speculative-eagle-topk", str(tree.top_k)]
    # The root counts too.
    command += ["--speculative-num-draft-tokens", str(request.num_drafts + 1)]
    if tree.acceptance == "rejection":
        command += ["--speculative-use-rejection-sampling"]
    if request.tp > 1:
        command += ["--tp-size", str(request.tp)]
    return [shlex.join(command)], _list_caveats(request)


def _list_caveats(request: Request) -> list[Caveat]:
    """What to know, in the order in which it matters."""
    is_ngram = request.method == "ngram"
    forced = "" if is_ngram else " With top-k 1 it is set to steps + 1, whatever is given."
    texts = [f"--speculative-num-draft-tokens counts the root too.{forced}"]
    # With branches, not every backend takes pages of several tokens.
    if request.tree.top_k > 1:
        backends = "flashinfer" if is_ngram else "flashinfer, fa3 or triton"
        texts.append(
            "With top-k above 1, pages of more than one token need the attention backend "
            f"{backends}; else add --page-size 1."
        )
    texts.append("At most 48 requests run at once unless --max-running-requests says otherwise.")
    if request.method == "draft-model":
        texts.append("Target and draft model must share a vocabulary.")
    if request.config is None:
        return request.cite_read(*texts)
    return [
        *request.cite_read(*texts, *_texts_about_head(request.config)),
        *request.cite_run(
            "Its loader, layers, chains and trees were seen at work on a CPU, its kernels never."
        ),
    ]


def _texts_about_head(config: Eagle3Config) -> list[str]:
    """What to know of a draft head on SGLang."""
    return [
        "EAGLE instead of EAGLE3 starts too, and accepts nothing, without an error.",
        "The head takes over the target's --quantization unless "
        "--speculative-draft-model-quantization unquant is added.",
        "A target whose context is longer than the head's "
        f"{config.max_position_embeddings} positions needs --context-length.",
        "A sliding window in the head's config is ignored; --speculative-draft-window-size N sets "
        "one, without sinks.",
        "--speculative-use-rejection-sampling wants top-k 1 and the target's whole vocabulary; "
        f"this head drafts {config.draft_vocab_size} of {config.vocab_size} tokens.",
    ]
