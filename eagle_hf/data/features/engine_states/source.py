"""An engine's folder as the source of states, for `capture_features`.

The engine gives the states between layers. What stands behind them, the final norm and the LM
head, is applied here. Memory holds the states of one batch.

N tokens of a batch, S tokens of a text, n states of a token, H hidden size.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from eagle_hf.data.features.capture_plan import PlannedConversation, key_of_tokens
from eagle_hf.data.features.engine_states.comparison import (
    check_form,
    check_states,
    shortest_and_longest,
)
from eagle_hf.data.features.engine_states.files import SUFFIX, load_states, scan_folder
from eagle_hf.data.features.engine_states.needed import needed_states, states_to_features
from eagle_hf.data.features.engine_states.request import STATES_FOLDER, check_request
from eagle_hf.data.features.state_sources import Choice
from eagle_hf.data.manifest import MANIFEST
from eagle_hf.data.rows import Example, SkippedRow, TargetFeatures, first_reasons


class EngineStates:
    """The states that vLLM wrote to a folder, one file a text.

    Args:
        folder: of `write_engine_request`, after the engine ran; or any local folder of
            safetensors files that vLLM's ExampleHiddenStatesConnector wrote. Its file names do
            not matter, texts are found by their tokens.

    Raises:
        ValueError: there is no such folder.

    Attributes:
        unusable: why a file cannot be used, by its name; known after `choose`.
    """

    name = "engine"

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(
                f"{folder} is no folder; give the one that write_engine_request wrote and the "
                "engine filled"
            )
        is_request = (self.folder / MANIFEST).exists()
        self.states_folder = self.folder / STATES_FOLDER if is_request else self.folder
        self.unusable: dict[str, str] = {}
        self._names: dict[str, str] = {}  # of whole files, by the key of their tokens

    def choose(
        self,
        target: PreTrainedModel,
        examples: Sequence[Example],
        conversations: Sequence[PlannedConversation],
        layer_ids: Sequence[int],
    ) -> Choice:
        """Find the conversations whose states the engine wrote, and compare some with the target.

        Args:
            target: in eval mode, in the dtype that the engine computed in.
            examples: that are to be captured.
            conversations: the plan's view of these examples.
            layer_ids: whose inputs are the aux hidden states.

        Returns:
            Conversations with a whole file; those without one are left out by name.

        Raises:
            ValueError: the folder was asked for another target or other layers; a file holds
                other states or another dtype; states that are not the target's; no conversation
                has any.
        """
        check_request(self.folder, target, layer_ids)
        state_ids = needed_states(target, layer_ids)
        self._scan(target, state_ids)
        chosen = []
        left_out = []
        for conversation in conversations:
            if conversation.tokens_key in self._names:
                chosen.append(conversation)
            else:
                tokens = np.asarray(examples[conversation.number]["input_ids"], dtype=np.int64)
                reason = self._why_missing(conversation, tokens)
                left_out.append(SkippedRow(conversation.id, reason))
        if not chosen:
            unusable = first_reasons(list(self.unusable.items()), "no file is torn")
            raise ValueError(
                f"{self.states_folder} holds the states of none of the {len(conversations)} "
                f"conversations ({len(self._names)} files of other texts; {unusable}); "
                "run the engine over the tokens that write_engine_request writes for them"
            )
        self._compare(target, examples, chosen, state_ids)
        return Choice(chosen, left_out)

    def read(
        self,
        target: PreTrainedModel,
        layer_ids: list[int],
        batch: Sequence[PlannedConversation],
        input_ids: Sequence[torch.Tensor],
    ) -> TargetFeatures:
        """Load the states of a batch, and apply the target's final norm and LM head.

        Args:
            target: in eval mode.
            layer_ids: whose inputs are the aux hidden states.
            batch: conversations that `choose` has chosen.
            input_ids: their tokens.

        Returns:
            The features of all N tokens.

        Raises:
            ValueError: a file that changed, or lacks the states of some of its tokens.
        """
        parts = []
        for conversation, tokens in zip(batch, input_ids, strict=True):
            name = self._names[conversation.tokens_key]
            parts.append(load_states(self.states_folder, name, tokens))
        return states_to_features(target, layer_ids, torch.cat(parts))

    def _scan(self, target: PreTrainedModel, state_ids: list[int]) -> None:
        """Note every whole file by its tokens; refuse a folder of other states."""
        self._names = {}
        self.unusable = {}
        for file in scan_folder(self.states_folder):
            if isinstance(file, SkippedRow):
                self.unusable[file.id] = file.reason
                continue
            form = (file.num_states, file.hidden_size, file.dtype)
            check_form(str(self.states_folder / file.name), form, target, state_ids)
            self._names[file.tokens_key] = file.name

    def _why_missing(self, conversation: PlannedConversation, tokens: np.ndarray) -> str:
        """Why there are no states of a conversation with these tokens [S]."""
        own = conversation.tokens_key + SUFFIX
        if own in self.unusable:
            return f"{self.states_folder / own} cannot be used: {self.unusable[own]}"
        beginning = self._names.get(key_of_tokens(tokens[:-1]))
        if beginning is not None:
            return f"{self.states_folder / beginning} lacks the last of its {len(tokens)} tokens"
        return f"no file of {self.states_folder} holds its {len(tokens)} tokens"

    def _compare(
        self,
        target: PreTrainedModel,
        examples: Sequence[Example],
        chosen: list[PlannedConversation],
        state_ids: list[int],
    ) -> None:
        """Refuse states that are not the target's, by the shortest text and the longest."""
        for conversation in shortest_and_longest(chosen):
            tokens = torch.as_tensor(examples[conversation.number]["input_ids"]).long()
            name = self._names[conversation.tokens_key]
            states = load_states(self.states_folder, name, tokens)
            check_states(str(self.states_folder / name), target, tokens, states, state_ids)
