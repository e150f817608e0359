"""How many drafts SGLang accepts, prompt by prompt, and what it writes.

Its kernels are the stand-ins beside this folder.

Settings:
    target, head: Folders of models.
    depth: Drafts a branch.
    top_k: Branches.
    nodes: Drafted tokens, the root counted.
    prompts: Token ids of each prompt.
    new_tokens: Tokens of each answer.
    stop: The tokens that end an answer.

Answer:
    answers: Token ids of each answer.
    accepted: Accepted drafts of each prompt.
    rounds: Rounds of each prompt.
"""

import json
import sys
from pathlib import Path
from typing import Any

import sglang


def make_engine(settings: dict[str, Any]) -> sglang.Engine:
    """SGLang's engine on the CPU, in float32, with EAGLE-3."""
    return sglang.Engine(
        model_path=settings["target"],
        device="cpu",
        dtype="float32",
        skip_tokenizer_init=True,
        context_length=1024,
        max_total_tokens=4096,
        # set apart: with one name for both it falls back to a backend without EAGLE
        prefill_attention_backend="intel_amx",
        decode_attention_backend="intel_amx",
        sampling_backend="pytorch",
        disable_cuda_graph=True,
        disable_overlap_schedule=True,
        disable_radix_cache=True,
        speculative_algorithm="EAGLE3",
        speculative_draft_model_path=settings["head"],
        speculative_num_steps=settings["depth"],
        speculative_eagle_topk=settings["top_k"],
        speculative_num_draft_tokens=settings["nodes"],
    )


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    engine = make_engine(settings)
    sampling = {
        "temperature": 0,
        "max_new_tokens": settings["new_tokens"],
        "stop_token_ids": settings["stop"],
    }
    answers = []
    accepted = []
    rounds = []
    for prompt in settings["prompts"]:
        reply = engine.generate(input_ids=prompt, sampling_params=sampling)
        answers.append(reply["output_ids"])
        accepted.append(reply["meta_info"]["spec_num_correct_drafts"])
        rounds.append(reply["meta_info"]["spec_verify_ct"])
    engine.shutdown()
    answer = {"answers": answers, "accepted": accepted, "rounds": rounds}
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
