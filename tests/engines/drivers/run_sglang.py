"""How many drafts SGLang accepts, prompt by prompt, and what it writes. Its kernels are the stand-ins beside this folder.

Settings: target, head, depth (drafts a branch), top_k, nodes (drafted tokens, the root counted), prompts (token ids), new_tokens,
stop (token ids).
Answer: answers (token ids of each prompt), accepted (drafts of each prompt), rounds (of each prompt).
"""

import json
import sys
from pathlib import Path

import sglang


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    engine = sglang.Engine(
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
    sampling = {
        "temperature": 0,
        "max_new_tokens": settings["new_tokens"],
        "stop_token_ids": settings["stop"],
    }
    replies = [
        engine.generate(input_ids=prompt, sampling_params=sampling)
        for prompt in settings["prompts"]
    ]
    engine.shutdown()
    answer = {
        "answers": [reply["output_ids"] for reply in replies],
        "accepted": [reply["meta_info"]["spec_num_correct_drafts"] for reply in replies],
        "rounds": [reply["meta_info"]["spec_verify_ct"] for reply in replies],
    }
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
