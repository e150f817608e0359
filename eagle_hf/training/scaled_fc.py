"""fc in other units while it is trained: it reads every dimension over its spread.

A few dimensions of the aux hidden states are hundreds of times larger than the others. Adam moves
every weight by the same amount, so that these dimensions own the first steps. Here the trained
weights are those of states whose dimensions are equally large:

    trained weight  =  plain weight * spread        the module's parameter
    plain weight    =  trained weight / spread      what is saved, EAGLE-3's layout

Spreads are powers of two, so that both directions are exact and a resumed run has the same bits.

B batch, S sequence, H hidden.
"""

from typing import Any

import torch
from torch import nn

from eagle_hf.head.modeling import Eagle3DraftHead

LEAST_SPREAD = 2.0**-10


class ScaledLinear(nn.Linear):
    """A linear layer [H, 3H] that reads inputs over their spread, and is saved as a plain one.

    Args:
        weight: as it is trained [H, 3H].
        spread: of the inputs [3H]; rounded to powers of two.
    """

    spread: torch.Tensor

    def __init__(self, weight: torch.Tensor, spread: torch.Tensor):
        outputs, inputs = weight.shape
        super().__init__(inputs, outputs, bias=False, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            self.weight.copy_(weight)
        rounded = spread.float().clamp(min=LEAST_SPREAD).log2().round().exp2()
        # a run makes its head anew before it resumes, so that checkpoints need not hold it
        self.register_buffer("spread", rounded.to(self.weight), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input / self.spread)

    def plain_weight(self) -> torch.Tensor:
        """The weights [H, 3H] of a plain layer that computes the same."""
        return self.weight / self.spread

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.plain_weight().detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = prefix + "weight"
        scaled = dict(state_dict)
        if name in scaled:
            # a checkpoint's tensors lie on the CPU
            scaled[name] = scaled[name] * self.spread.to(scaled[name])
        super()._load_from_state_dict(
            scaled, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


@torch.no_grad()
def scale_fc(head: Eagle3DraftHead, states: torch.Tensor) -> None:
    """Let fc read dimensions over their spread, and begin as the mean of the aux hidden states.

    Args:
        head: its fc is replaced.
        states: aux hidden states [B, S, 3H] that the spread is measured on. The first slot is an
            attention sink and does not count.
    """
    spread = states[:, 1:].float().square().mean((0, 1)).sqrt()  # [3H]
    count = head.config.num_aux_hidden_states
    width = head.fc.in_features // count
    mean = torch.eye(head.fc.out_features, width, device=head.fc.weight.device) / count
    weight = mean.repeat(1, count).to(head.fc.weight)  # [H, 3H]
    head.fc = ScaledLinear(weight, spread)


def plain_fc(head: Eagle3DraftHead) -> Eagle3DraftHead:
    """Fold the scales of a trained head into its fc.

    Saving does so by itself. In memory it is for code that reads `head.fc.weight`; an optimiser of
    the head must be made anew.

    Args:
        head: made by `new_head(fc_start="scaled")`; others stay as they are.

    Returns:
        The same head.
    """
    scaled = head.fc
    if isinstance(scaled, ScaledLinear):
        outputs, inputs = scaled.weight.shape
        plain = nn.Linear(inputs, outputs, bias=False).to(scaled.weight)
        plain.load_state_dict(scaled.state_dict())
        head.fc = plain
    return head
