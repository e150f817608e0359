"""How many drafts llama.cpp accepts, by prompt and by position, and what it writes.

Settings: target, head (GGUF files), depth (drafts a round), prompts (token ids), new_tokens.
Answer: answers (token ids of each prompt), accepted (drafts of each prompt), positions (accepted drafts at each position).
"""

import json
import re
import sys
from pathlib import Path

import xllamacpp

EAGLE3 = xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3


def server(target: str, head: str, depth: int):
    """llama.cpp's server in this process, on one thread, and all in float32, which its fast attention is not (2e-3 in log-probability)."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.endpoint_metrics = (
        target,
        1024,
        1,
        True,
    )
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.speculative.types = [EAGLE3]
    draft = params.speculative.draft
    draft.mparams.path, draft.n_max, draft.n_min, draft.p_min = head, depth, 0, 0.0
    for part in (params, draft):
        part.cpuparams.n_threads = part.cpuparams_batch.n_threads = 1
        part.cache_type_k = part.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    engine = server(settings["target"], settings["head"], settings["depth"])
    answers, accepted = [], []
    for prompt in settings["prompts"]:
        request = {
            "prompt": prompt,
            "max_tokens": settings["new_tokens"],
            "temperature": 0,
            "cache_prompt": False,
            "logprobs": 1,
        }
        reply = engine.handle_completions(request)
        answers.append(
            [token["id"] for token in reply["choices"][0]["logprobs"]["content"]]
        )  # the only place that names ids
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
