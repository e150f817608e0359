"""Streamers that see the rounds, and not only the tokens that come of them."""

from abc import ABC, abstractmethod

from transformers.generation.streamers import BaseStreamer

from eagle_hf.decoding.tree import Tree
from eagle_hf.decoding.verify import Verdict


class RoundStreamer(BaseStreamer, ABC):
    """A streamer for `generate(assistant_model=head, streamer=streamer)` that is shown each round.

    A round's tree and verdict come first, through `put_round`, and then its tokens, through `put`.
    The prompt and the first token are `put` without a round. So is every token where the target
    answers alone, because there is no assistant or drafting does not pay.
    """

    @abstractmethod
    def put_round(self, tree: Tree, verdict: Verdict) -> None:
        """Take a round.

        Args:
            tree: what was drafted, one row: tokens, parents and depths are [1, N].
            verdict: what the target emitted, and which of it had been drafted.
        """
