"""Rollouts as what a head learns from: their exact tokens, and which of them were generated.

R rows, S prompt slots, L slots with the answers.
"""

from dataclasses import dataclass
from typing import Any

import torch

from eagle_hf.compat import AssistedCall
from eagle_hf.decoding.stopping import answer_lengths


@dataclass(frozen=True)
class Rollout:
    """One row of a call.

    Attributes:
        input_ids: [n], without padding.
        loss_mask: bool [n], True for generated tokens, the end token included.
    """

    input_ids: torch.Tensor
    loss_mask: torch.Tensor

    def as_example(self) -> dict[str, Any]:
        """As `collate` takes it."""
        return {"id": "rollout", "input_ids": self.input_ids, "loss_mask": self.loss_mask}


def generated(output: Any, call: AssistedCall) -> torch.Tensor:
    """The tokens [R, L - S] behind the prompts, of what generate returned."""
    sequences = getattr(output, "sequences", output)
    return sequences[:, call.input_ids.shape[1] :]


def rollouts_of(output: Any, call: AssistedCall) -> list[Rollout]:
    """The rows of a call; those without a token are left out."""
    answers = generated(output, call)
    mask = call.model_inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(call.input_ids)
    found = []
    lengths = answer_lengths(answers, call.generation_config).tolist()
    for prompt, seen, answer, length in zip(call.input_ids, mask, answers, lengths, strict=True):
        if not length:
            continue
        prompt = prompt[seen[: len(prompt)].bool()].cpu()
        answer = answer[:length].cpu()
        is_answer = torch.cat([torch.zeros(len(prompt)), torch.ones(length)]).bool()
        found.append(Rollout(torch.cat([prompt, answer]), is_answer))
    return found
