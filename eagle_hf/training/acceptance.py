"""Acceptance while training: the head as it is now drafts for the target on held-out prompts.

Loss falls while acceptance falls, so checkpoints are chosen by acceptance.
"""

from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel

from eagle_hf.data.masking import eos_token_ids
from eagle_hf.data.prompts import evenly_spread
from eagle_hf.data.sampling import evaluating, generate_batch
from eagle_hf.decoding.assistants import EagleAssistant
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.head.modeling import Eagle3DraftHead

BATCH = 8  # prompts answered at once


def held_out_prompts(examples: Any, count: int) -> list[list[int]]:
    """Take the token ids before the first response of some examples.

    Args:
        examples: tokenised conversations (`input_ids`, `loss_mask`), or a stream of them.
        count: how many examples at most, evenly spread; of a stream, the first ones.

    Returns:
        The prompts. An example that begins with its response has none and is left out.

    Raises:
        ValueError: no example has a prompt.
    """
    if hasattr(examples, "__len__"):
        chosen = evenly_spread(examples, count)
    else:
        chosen = list(islice(examples, count))
    prompts = []
    for example in chosen:
        mask = torch.as_tensor(example["loss_mask"]).long()
        response_start = int(mask.argmax())
        if response_start > 0:
            input_ids = torch.as_tensor(example["input_ids"])
            prompts.append(input_ids[:response_start].tolist())
    if not prompts:
        raise ValueError(
            f"none of {len(chosen)} evaluation examples has a prompt before its response, so "
            "nothing can be generated; keep the prompts in the examples, or set eval_prompts=0"
        )
    return prompts


@torch.no_grad()
def measure_acceptance(
    target: PreTrainedModel,
    head: Eagle3DraftHead,
    prompts: list[list[int]],
    max_new_tokens: int,
) -> dict[str, float]:
    """Generate greedily from every prompt and count what is accepted.

    Random states and modes are as before afterwards.

    Args:
        target: the target.
        head: the draft head; it drafts the tree of its own config.
        prompts: token ids.
        max_new_tokens: of each answer.

    Returns:
        {"tau", "alpha_1", "alpha_2", ...}; without "tau" where every answer ended before a round
        was needed.
    """
    stats = DecodingStats(rows=0)
    stop = eos_token_ids(target, None)
    # the head's own tree, not the machine's best one: evaluations must compare
    drafts_own_tree = EagleAssistant(head, head.tree)
    with evaluating(head):
        for start in range(0, len(prompts), BATCH):
            generate_batch(
                target,
                prompts[start : start + BATCH],
                eos_token_ids=stop,
                max_new_tokens=max_new_tokens,
                assistant_model=drafts_own_tree,
            )
            assert head.last_run is not None, "generate leaves what its rounds did"
            stats = stats + head.last_run
    measured = {}
    if stats.rounds:
        measured["tau"] = stats.tau
    for depth, alpha in enumerate(stats.alpha, start=1):
        measured[f"alpha_{depth}"] = alpha
    return measured
