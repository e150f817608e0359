"""Acceptance while training: the head as it is now drafts for the target on held-out prompts.

Loss falls while acceptance falls, so checkpoints are chosen by acceptance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from eagle_hf.data.answers.sampling import generate_batch
from eagle_hf.data.examples.images import prompt_part
from eagle_hf.data.examples.masking import eos_token_ids
from eagle_hf.data.prompts.gathering import evenly_spread
from eagle_hf.decoding.assistants import EagleAssistant
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.target import evaluating, rope_limit
from eagle_hf.target.structure import UNLIMITED
from eagle_hf.training.arguments import Eagle3TrainingArguments

logger = logging.get_logger(__name__)

BATCH = 8  # prompts answered at once


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt with images.

    Attributes:
        input_ids: its tokens.
        image_inputs: what the target's processor prepared beside them.
    """

    input_ids: list[int]
    image_inputs: Mapping[str, torch.Tensor]


HeldOutPrompt = list[int] | ImagePrompt


def held_out_prompts(examples: Any, count: int, longest: int = UNLIMITED) -> list[HeldOutPrompt]:
    """Take the token ids before the first response of some examples.

    Of a conversation with images, whose inputs belong together, those before the last response.

    Args:
        examples: tokenised conversations (`input_ids`, `loss_mask`), or a stream of them.
        count: how many examples at most, evenly spread; of a stream, the first ones.
        longest: leave out longer prompts, in tokens, and say so.

    Returns:
        The prompts. An example that begins with its response has none and is left out.

    Raises:
        ValueError: no example has such a prompt.
    """
    if hasattr(examples, "__len__"):
        chosen = evenly_spread(examples, count)
    else:
        chosen = list(islice(examples, count))
    prompts = []
    too_long = 0
    for example in chosen:
        prompt = _prompt(example)
        if prompt is None:
            continue
        if _length(prompt) > longest:
            too_long += 1
        else:
            prompts.append(prompt)
    if not prompts:
        raise ValueError(
            f"none of {len(chosen)} evaluation examples has a prompt before its response that can "
            f"be answered ({too_long} are longer than {longest} tokens), so nothing can be "
            "generated; keep shorter prompts in the examples, or set eval_prompts=0"
        )
    if too_long:
        logger.warning_once(
            f"{too_long} of {len(chosen)} evaluation prompts are longer than {longest} tokens, the "
            "most that the target can answer with a head; acceptance is measured on the others"
        )
    return prompts


def _prompt(example: Mapping[str, Any]) -> HeldOutPrompt | None:
    """The prompt of an example; None where it begins with its response."""
    mask = torch.as_tensor(example["loss_mask"]).bool()  # [S]
    input_ids = torch.as_tensor(example["input_ids"])
    begins = mask.clone()
    begins[1:] &= ~mask[:-1]
    starts = begins.nonzero()[:, 0].tolist()  # of every response
    if not starts or starts[0] == 0:
        return None
    images = example.get("image_inputs")
    if images is None:
        return input_ids[: starts[0]].tolist()
    part = prompt_part(images, starts[-1], len(input_ids))
    return ImagePrompt(input_ids[: starts[-1]].tolist(), part)


def _length(prompt: HeldOutPrompt) -> int:
    """How many tokens a prompt has."""
    return len(prompt.input_ids if isinstance(prompt, ImagePrompt) else prompt)


def answerable_prompts(
    examples: Any, args: Eagle3TrainingArguments, target: PreTrainedModel
) -> list[HeldOutPrompt]:
    """Take the held-out prompts that the target can answer with a head, as `args` ask for them.

    Args:
        examples: as in `held_out_prompts`.
        args: `eval_prompts` and `eval_new_tokens`.
        target: its RoPE may set a limit to prompt and answer.

    Raises:
        ValueError: there are none.
    """
    longest = rope_limit(target) - args.eval_new_tokens
    return held_out_prompts(examples, args.eval_prompts, longest)


def check_prompts(datasets: Any, args: Eagle3TrainingArguments, target: PreTrainedModel) -> None:
    """Refuse, before training, evaluation sets without a prompt that can be answered.

    Args:
        datasets: examples, or a dict of them by name. Streams and features are read later.
        args: as in `answerable_prompts`.
        target: the target.

    Raises:
        ValueError: one of them has none.
    """
    if args.eval_strategy == "no" or not args.eval_prompts:
        return
    parts = datasets.values() if isinstance(datasets, dict) else [datasets]
    for examples in parts:
        if isinstance(examples, list):
            answerable_prompts(examples, args, target)


@torch.no_grad()
def measure_acceptance(
    target: PreTrainedModel,
    head: Eagle3DraftHead,
    prompts: Sequence[HeldOutPrompt],
    max_new_tokens: int,
) -> dict[str, float]:
    """Generate greedily from every prompt and count what is accepted.

    Random states and modes are as before afterwards.

    Args:
        target: the target.
        head: the draft head; it drafts the tree of its own config.
        prompts: of `held_out_prompts`.
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
        for batch, images in _batches(prompts):
            generate_batch(
                target,
                batch,
                eos_token_ids=stop,
                max_new_tokens=max_new_tokens,
                assistant_model=drafts_own_tree,
                image_inputs=images,
            )
            assert head.last_run is not None, "generate leaves what its rounds did"
            stats = stats + head.last_run
    measured = {}
    if stats.rounds:
        measured["tau"] = stats.tau
    for depth, alpha in enumerate(stats.alpha, start=1):
        measured[f"alpha_{depth}"] = alpha
    return measured


def _batches(
    prompts: Sequence[HeldOutPrompt],
) -> Iterator[tuple[list[list[int]], Mapping[str, torch.Tensor] | None]]:
    """Prompts that are answered at once, with their images; those with images one by one."""
    text = [prompt for prompt in prompts if not isinstance(prompt, ImagePrompt)]
    for start in range(0, len(text), BATCH):
        yield text[start : start + BATCH], None
    for prompt in prompts:
        if isinstance(prompt, ImagePrompt):
            yield [prompt.input_ids], prompt.image_inputs
