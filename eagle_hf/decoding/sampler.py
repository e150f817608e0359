"""Drawing drafts, for acceptance by rejection."""

import torch


class DraftSampler:
    """Draws drafts from the drafter's distribution, siblings without replacement.

    The k largest of log q + Gumbel noise, in order, are k draws without replacement.

    Args:
        temperature: of the drafter's distribution.
        seed: of its own random numbers; the target's are left alone.
        device: of the log-probabilities.

    Attributes:
        offered: the distribution [..., U] that the last drafts were drawn from.
    """

    def __init__(self, temperature: float, seed: int, device: torch.device):
        self.temperature = temperature
        self.generator = torch.Generator(device).manual_seed(seed)
        self.offered: torch.Tensor | None = None

    def draw(self, log_probs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """k drafts [..., k] from log-probabilities [..., U]: (their log-probabilities, ids)."""
        log_probs = (log_probs / self.temperature).log_softmax(-1)
        self.offered = log_probs.exp()
        # log of an exponential variable is minus a Gumbel variable
        noise = torch.empty_like(log_probs).exponential_(generator=self.generator).log_()
        ids = (log_probs - noise).topk(k, dim=-1).indices
        return log_probs.gather(-1, ids), ids
