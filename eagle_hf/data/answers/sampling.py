"""One batch through the target's own `generate`, padded on the left, cut at the end of the turn.

The caller's random state is left alone: sampling happens in a forked generator that is seeded for
each batch. So a batch gives the same tokens whatever ran before it.

B batch, S length of the longest prompt in tokens.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, StoppingCriteriaList

from eagle_hf.data.examples.turns import until_end_of_turn
from eagle_hf.target import evaluating, execution_device, prepared_images


def batch_seed(seed: int, *parts: object) -> int:
    """Derive a seed from what a batch holds, so that it does not depend on earlier batches.

    Args:
        seed: of the whole run.
        parts: name the batch, such as the ids in it.

    Returns:
        A seed of 56 bits for `torch.manual_seed`.
    """
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generate_batch(
    target: PreTrainedModel,
    prompts: list[list[int]],
    *,
    eos_token_ids: Iterable[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int = 0,
    assistant_model: Any = None,
    image_inputs: Mapping[str, torch.Tensor] | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
) -> list[list[int]]:
    """Continue every prompt to the end of its turn.

    Settings that are not given here are those of the target's generation_config, as in any
    `target.generate`.

    Args:
        target: any causal LM that can generate.
        prompts: B lists of token ids.
        eos_token_ids: tokens that end a turn.
        max_new_tokens: longest response, in tokens.
        temperature: 0 is greedy.
        top_p: nucleus sampling, above temperature 0.
        top_k: most likely tokens to sample from, above temperature 0.
        seed: of the sampling in this batch.
        assistant_model: draft head or other assistant of `generate`.
        image_inputs: the images of a batch of one prompt, as the target's processor prepares them.
        stopping_criteria: what else ends a response.

    Returns:
        B lists of the tokens that follow, up to and including the end-of-turn token. A response
        without one was cut at `max_new_tokens`.
    """
    stop = sorted(eos_token_ids)  # in one order, whatever set they come in
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature}
        if top_p is not None:
            sampling["top_p"] = top_p
        if top_k is not None:
            sampling["top_k"] = top_k
    # Any token will do as padding: the mask hides it, and `_left_pad` knows the lengths.
    device = execution_device(target)
    input_ids, attention_mask = _left_pad(prompts, stop[0], device)
    images: dict[str, torch.Tensor] = {}
    if image_inputs is not None:
        assert len(prompts) == 1, "images are prepared for one prompt"
        images = prepared_images(image_inputs, device, target.dtype)
    devices = [device] if device.type == "cuda" else []
    generate: Any = target.generate  # of GenerationMixin, which only the model's own class has
    with torch.random.fork_rng(devices=devices), evaluating(target):
        torch.manual_seed(seed)
        output = generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            assistant_model=assistant_model,
            eos_token_id=stop,
            pad_token_id=stop[0],
            stopping_criteria=stopping_criteria,
            **sampling,
            **images,
        )
    prompt_length = input_ids.shape[1]
    responses = output[:, prompt_length:].tolist()  # [B, new tokens]
    # `generate` pads the rows that end early.
    stop_set = frozenset(stop)
    return [until_end_of_turn(response, stop_set) for response in responses]


def _left_pad(
    prompts: list[list[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and attention mask [B, S] of prompts that all end in the last column."""
    longest = max(map(len, prompts))
    ids = []
    mask = []
    for prompt in prompts:
        padding = longest - len(prompt)
        ids.append([pad] * padding + prompt)
        mask.append([0] * padding + [1] * len(prompt))
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
