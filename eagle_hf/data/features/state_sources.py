"""Where the states of a conversation come from, when features are captured.

The target computes them in this process (`TargetSource`), or an inference engine has written them
to a folder (`EngineStates`). What is captured is the same, up to the rounding of other kernels.

N tokens of a batch, H hidden size.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from transformers import PreTrainedModel

from eagle_hf.data.features.capture_plan import PlannedConversation
from eagle_hf.data.features.target_features import compute_features
from eagle_hf.data.rows import Example, SkippedRow, TargetFeatures


class Choice(NamedTuple):
    """The conversations whose states a source has, and those whose states it lacks, with why."""

    conversations: list[PlannedConversation]
    left_out: list[SkippedRow]


class StateSource(Protocol):
    """What gives the states of conversations.

    Attributes:
        name: what the index calls it. A folder is continued from a source of the same name.
    """

    name: str

    def choose(
        self,
        target: PreTrainedModel,
        examples: Sequence[Example],
        conversations: Sequence[PlannedConversation],
        layer_ids: Sequence[int],
    ) -> Choice:
        """Find out whose states there are, before anything is written.

        Args:
            target: in eval mode.
            examples: that are to be captured.
            conversations: the plan's view of these examples, in their order.
            layer_ids: whose inputs are the aux hidden states.

        Returns:
            What can be captured, and what cannot.

        Raises:
            ValueError: the source does not fit the target or the layers.
        """
        ...

    def read(
        self,
        target: PreTrainedModel,
        layer_ids: list[int],
        batch: Sequence[PlannedConversation],
        input_ids: Sequence[torch.Tensor],
    ) -> TargetFeatures:
        """Get the states of a batch.

        Args:
            target: in eval mode.
            layer_ids: whose inputs are the aux hidden states.
            batch: conversations that `choose` has chosen.
            input_ids: their tokens, int64, shapes [S].

        Returns:
            The features of all N tokens, one conversation after another.

        Raises:
            ValueError: states that cannot be used; the message names the conversation.
        """
        ...


class TargetSource:
    """The target itself, which reads every conversation in this process."""

    name = "target"

    def choose(
        self,
        target: PreTrainedModel,
        examples: Sequence[Example],
        conversations: Sequence[PlannedConversation],
        layer_ids: Sequence[int],
    ) -> Choice:
        """Choose all conversations: the target reads any."""
        return Choice(list(conversations), [])

    def read(
        self,
        target: PreTrainedModel,
        layer_ids: list[int],
        batch: Sequence[PlannedConversation],
        input_ids: Sequence[torch.Tensor],
    ) -> TargetFeatures:
        """Run the target over a batch."""
        names = [conversation.id for conversation in batch]
        return compute_features(target, input_ids, layer_ids, names)
