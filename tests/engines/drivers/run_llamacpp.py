"""How many drafts llama.cpp accepts, by prompt and by position, and what it writes.

Settings:
    target, head: GGUF files.
    depth: Drafts a round.
    prompts: Token ids of each prompt.
    new_tokens: Tokens of each answer.

Answer:
    answers: Token ids of each answer.
    accepted: Accepted drafts of each prompt.
    positions: Accepted drafts at each position of a chain.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import xllamacpp

EAGLE3 = xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3


def server(target: str, head: str, depth: int) -> xllamacpp.Server:
    """llama.cpp's server in this process, on one thread, with everything in float32.

    Its fast attention is not in float32 (2e-3 in log-probability), so it is off.
    """
    params = xllamacpp.CommonParams()
    params.model.path = target
    params.n_ctx = 1024
    params.n_parallel = 1
    params.endpoint_metrics = True
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.speculative.types = [EAGLE3]
    draft = params.speculative.draft
    draft.mparams.path = head
    draft.n_max = depth
    draft.n_min = 0
    draft.p_min = 0.0
    for part in (params, draft):
        part.cpuparams.n_threads = 1
        part.cpuparams_batch.n_threads = 1
        part.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
        part.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def complete(engine: xllamacpp.Server, prompt: list[int], new_tokens: int) -> dict[str, Any]:
    """The server's reply to a prompt."""
    request = {
        "prompt": prompt,
        "max_tokens": new_tokens,
        "temperature": 0,
        "cache_prompt": False,
        "logprobs": 1,  # no other part of a reply names token ids
    }
    return engine.handle_completions(request)


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    engine = server(settings["target"], settings["head"], settings["depth"])
    answers = []
    accepted = []
    for prompt in settings["prompts"]:
        reply = complete(engine, prompt, settings["new_tokens"])
        tokens = reply["choices"][0]["logprobs"]["content"]
        answers.append([token["id"] for token in tokens])
        accepted.append(reply["timings"].get("draft_n_accepted", 0))
    positions = re.findall(
        r'accepted_tokens_per_pos_total\{position="\d+"\} (\d+)', engine.handle_metrics()
    )
    answer = {
        "answers": answers,
        "accepted": accepted,
        "positions": [int(count) for count in positions],
    }
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
