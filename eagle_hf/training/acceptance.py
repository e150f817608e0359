"""Acceptance while training: the head as it is now drafts for the target on held-out prompts, and is counted.

Loss falls while acceptance falls, so checkpoints are chosen by this.
"""

from itertools import islice

import torch

from eagle_hf.data.masking import eos_token_ids
from eagle_hf.data.prompts import evenly_spread
from eagle_hf.data.sampling import evaluating, generate_batch
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.decoding.assistants import EagleAssistant

BATCH = 8  # prompts answered at once


def held_out_prompts(examples, count: int) -> list[list[int]]:
    """Token ids before the first response of at most `count` examples, evenly spread; of a stream, the first ones.

    An example that begins with its response has none and is left out; none at all is a ValueError.
    """
    chosen = (
        evenly_spread(examples, count)
        if hasattr(examples, "__len__")
        else list(islice(examples, count))
    )
    masks = [torch.as_tensor(example["loss_mask"]).long() for example in chosen]
    prompts = [
        torch.as_tensor(example["input_ids"])[: int(mask.argmax())].tolist()
        for example, mask in zip(chosen, masks)
    ]
    if not any(prompts):
        raise ValueError(
            f"none of {len(chosen)} evaluation examples has a prompt before its response, so nothing can be generated; keep the "
            "prompts in the examples, or set eval_prompts=0"
        )
    return [prompt for prompt in prompts if prompt]


@torch.no_grad()
def measure_acceptance(
    target, head, prompts: list[list[int]], max_new_tokens: int
) -> dict[str, float]:
    """{"tau", "alpha_1", ...} of greedy generation from every prompt; random states and modes are as before afterwards.

    No tau where every answer ended before a round was needed.
    """
    stats, stop = DecodingStats(rows=0), eos_token_ids(target, None)
    drafts_saved_tree = EagleAssistant(head, head.tree)  # not the machine's: evaluations compare
    with evaluating(head):
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            generate_batch(
                target,
                batch,
                eos_token_ids=stop,
                max_new_tokens=max_new_tokens,
                assistant_model=drafts_saved_tree,
            )
            stats = stats + head.last_run
    return ({"tau": stats.tau} if stats.rounds else {}) | {
        f"alpha_{depth}": alpha for depth, alpha in enumerate(stats.alpha, start=1)
    }
