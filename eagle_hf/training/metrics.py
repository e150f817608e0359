"""What is counted while the loss is computed: argmax agreement by pass, and the evaluation loss.

K passes, the longest unrolling so far.
"""

import torch
from accelerate import Accelerator
from torch.nn import functional as F


class LossMetrics:
    """The argmax agreement of each pass, counted over the batches since the last reset.

    Args:
        device: where the losses and counts arrive.
    """

    def __init__(self, device: torch.device):
        self.hits = torch.zeros(0, dtype=torch.long, device=device)  # [K]
        self.trials = torch.zeros(0, dtype=torch.long, device=device)  # [K]

    def add(
        self, loss: torch.Tensor, labels: torch.Tensor, hits: torch.Tensor, trials: torch.Tensor
    ) -> None:
        """Count one batch.

        Args:
            loss: the summed loss, a scalar.
            labels: -100 where nothing is learnt, [B, S].
            hits: argmax agreements of each pass that was unrolled.
            trials: labelled tokens of each pass that was unrolled.
        """
        unrolled = len(hits)
        new_passes = unrolled - len(self.hits)
        if new_passes > 0:  # the first batch, or a curriculum that unrolls more passes now
            self.hits = F.pad(self.hits, (0, new_passes))
            self.trials = F.pad(self.trials, (0, new_passes))
        self.hits[:unrolled] += hits
        self.trials[:unrolled] += trials

    def compute(self, accelerator: Accelerator) -> dict[str, float]:
        """{"acc_0", "acc_1", ...} over all processes; passes without trials are left out."""
        hits = accelerator.reduce(self.hits, "sum").tolist()
        trials = accelerator.reduce(self.trials, "sum").tolist()
        metrics = {}
        for ttt_step in range(len(hits)):
            if trials[ttt_step]:
                metrics[f"acc_{ttt_step}"] = round(hits[ttt_step] / trials[ttt_step], 4)
        return metrics

    def reset(self) -> None:
        """Start to count anew."""
        self.hits.zero_()
        self.trials.zero_()


class EvaluationMetrics(LossMetrics):
    """As `LossMetrics`, and the loss per learnt token of the whole evaluation set.

    Batches differ in size, so the mean of their means would be another number.
    """

    def __init__(self, device: torch.device):
        super().__init__(device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.tokens = torch.zeros((), dtype=torch.float64, device=device)

    def add(
        self, loss: torch.Tensor, labels: torch.Tensor, hits: torch.Tensor, trials: torch.Tensor
    ) -> None:
        """Count one batch, see `LossMetrics.add`."""
        super().add(loss, labels, hits, trials)
        self.loss += loss.detach()
        self.tokens += (labels != -100).sum()

    def compute(self, accelerator: Accelerator) -> dict[str, float]:
        """{"loss", "acc_0", ...} over all processes."""
        loss = accelerator.reduce(self.loss, "sum").item()
        tokens = accelerator.reduce(self.tokens, "sum").item()
        return {"loss": loss / tokens} | super().compute(accelerator)
