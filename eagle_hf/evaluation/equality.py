"""Whether two outputs are equal, and whether a difference is a tie or an error.

The target verifies a tree in other matrix shapes than a single token. The float32 logits therefore
differ in their last bits. A difference is an error unless the plain run itself was within `TIE` of
another choice.

S length of a sequence, V target vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch

TIE = 1e-4  # SmolLM2 in float32: tree and single-token logits differ by at most 4e-5


@dataclass(frozen=True)
class Difference:
    """The first token at which two outputs of one prompt part.

    Args:
        position: index of that token in the whole sequence, prompt included.
        gap: by how much the plain run preferred its token over its second choice.
    """

    position: int
    gap: float

    @property
    def is_tie(self) -> bool:
        """Whether rounding alone explains the difference."""
        return self.gap < TIE


def first_difference(plain: Any, other: torch.Tensor, seed: int | None = None) -> Difference | None:
    """Find the first token at which an output parts from a plain run.

    Args:
        plain: what `generate` returned for one prompt with `return_dict_in_generate=True` and
            `output_scores=True`.
        other: the other output, [1, S], prompt included.
        seed: the seed of a sampled run of one row, None for a greedy run. The gap of a sampled run
            is taken in log-probabilities minus the log of that step's noise, the gap of a greedy
            run in the processed scores.

    Returns:
        The difference, None where the outputs are equal. The gap is infinite where `other` goes on
        after the plain run has ended.
    """
    tokens = plain.sequences  # [1, S]
    common = min(tokens.shape[1], other.shape[1])
    differing = (tokens[0, :common] != other[0, :common]).nonzero()
    if len(differing) > 0:
        position = int(differing[0])
    elif tokens.shape == other.shape:
        return None
    else:
        position = common
    prompt_length = tokens.shape[1] - len(plain.scores)
    step = position - prompt_length
    if step >= len(plain.scores):
        return Difference(position, float("inf"))
    scores = plain.scores[step][0].float().cpu()  # [V]
    if seed is not None:
        noise = sampling_noise(seed, step, len(scores))
        scores = scores.log_softmax(-1) - noise.log()
    best, second = scores.topk(2).values
    return Difference(position, float((best - second).abs()))


def sampling_noise(seed: int, step: int, vocab_size: int) -> torch.Tensor:
    """Replay the noise that a sampled run of one row on a CPU drew.

    `torch.multinomial` of one sample is argmax(probs / noise), with exponential noise.

    Args:
        seed: what `torch.manual_seed` was given before the run.
        step: index of the new token, from 0.
        vocab_size: V.

    Returns:
        The noise of that step, [V].
    """
    # the caller's random numbers stay as they are
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        noise = torch.empty(1, vocab_size)
        for _ in range(step + 1):
            noise = torch.empty(1, vocab_size).exponential_(1)
    return noise[0]
