"""Acceptance while training: the head as it is now drafts for the target on held-out prompts, and is counted.

Loss falls while acceptance falls, so checkpoints are chosen by this.
"""

import torch

from eagle_hf.data.masking import eos_token_ids
from eagle_hf.data.prompts import evenly_spread
from eagle_hf.data.sampling import evaluating, generate_batch
from eagle_hf.decoding.stats import DecodingStats

BATCH = 8  # prompts answered at once


def held_out_prompts(examples, count: int) -> list[list[int]]:
    """Token ids before the first response of at most `count` examples, evenly spread."""
    chosen = evenly_spread(examples, count)
    masks = [torch.as_tensor(example["loss_mask"]).long() for example in chosen]
    return [torch.as_tensor(example["input_ids"])[: int(mask.argmax())].tolist() for example, mask in zip(chosen, masks)]


@torch.no_grad()
def measure_acceptance(target, head, prompts: list[list[int]], max_new_tokens: int) -> dict[str, float]:
    """{"tau", "alpha_1", ...} of greedy generation from every prompt; random states and modes are as before afterwards."""
    stats, stop = DecodingStats(rows=0), eos_token_ids(target, None)
    with evaluating(head):
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            generate_batch(target, batch, eos_token_ids=stop, max_new_tokens=max_new_tokens, assistant_model=head)
            stats = stats + head.last_run
    return {"tau": stats.tau} | {f"alpha_{depth}": alpha for depth, alpha in enumerate(stats.alpha, start=1)}
