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
from llamacpp_settings import draft_whole_chains, parameters

CONTEXT = 1024  # tokens


def server(target: str, head: str, depth: int) -> xllamacpp.Server:
    """llama.cpp's server in this process, on one thread, with everything in float32."""
    params = parameters(target, head, depth, dtype="float32", threads=1, context=CONTEXT)
    params.endpoint_metrics = True
    draft_whole_chains(params)
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
