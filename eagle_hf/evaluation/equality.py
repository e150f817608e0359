"""Is one output the other? And if not: was it a tie that arithmetic may break either way, or an error?

A tree is read in other matrix shapes than a single token, so float32 logits differ in the last bits. A difference
counts as an error unless the plain run itself stood within `TIE` of choosing otherwise.
"""

from dataclasses import dataclass

import torch

TIE = 1e-4  # SmolLM2 in float32: noise between tree and single-token logits is at most 4e-5


@dataclass(frozen=True)
class Difference:
    """The first token where two outputs of one prompt part, and by how much the plain run preferred its choice."""

    position: int
    gap: float

    @property
    def is_tie(self) -> bool:
        return self.gap < TIE


def first_difference(plain, other: torch.Tensor, seed: int | None = None) -> Difference | None:
    """Where `other` [1, L] parts from a plain run, None where it does not.

    plain: what generate returned with return_dict_in_generate and output_scores. seed: of a sampled run at B=1, whose
    gap is measured in log-probability minus log of that step's noise; None for greedy, in the processed scores.
    """
    ours, shorter = plain.sequences, min(plain.sequences.shape[1], other.shape[1])
    parted = (ours[0, :shorter] != other[0, :shorter]).nonzero()
    if len(parted) == 0 and ours.shape == other.shape:
        return None
    position = int(parted[0]) if len(parted) else shorter
    step = position - (ours.shape[1] - len(plain.scores))
    if step >= len(plain.scores):  # the other went on after the plain run had ended
        return Difference(position, float("inf"))
    scores = plain.scores[step][0].float().cpu()
    if seed is not None:
        scores = scores.log_softmax(-1) - sampling_noise(seed, step, len(scores)).log()
    return Difference(position, float(scores.topk(2).values.diff().abs()))


def sampling_noise(seed: int, step: int, vocab_size: int) -> torch.Tensor:
    """The exponential noise [V] that the draw of `step` divides the probabilities by, on a CPU at B=1.

    `torch.multinomial` of one sample is argmax(probs / noise).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(step + 1):
            noise = torch.empty(1, vocab_size).exponential_(1)
    return noise[0]
