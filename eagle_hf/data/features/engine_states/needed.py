"""Which states an engine has to give, and the features that they become.

N tokens of a batch, n states of a token, H hidden size.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from eagle_hf.data.features.target_features import complete_features
from eagle_hf.data.rows import TargetFeatures
from eagle_hf.target import apply_final_norm, decoder_layers, execution_device


def needed_states(target: PreTrainedModel, layer_ids: Sequence[int]) -> list[int]:
    """The states that an engine has to keep, in the order in which vLLM writes them.

    Args:
        target: a causal LM.
        layer_ids: whose inputs are the aux hidden states.

    Returns:
        Ids as `read_layer_states` counts them. The last is what the last layer puts out.
    """
    return sorted({*layer_ids, len(decoder_layers(target))})


def states_to_features(
    target: PreTrainedModel, layer_ids: Sequence[int], states: torch.Tensor
) -> TargetFeatures:
    """Apply the target's final norm and LM head to an engine's states.

    Args:
        target: in eval mode.
        layer_ids: whose inputs are the aux hidden states, in the order of a head.
        states: the `needed_states`, shape [N, n, H].

    Returns:
        The features of the N tokens, on the target's device.
    """
    states = states.to(execution_device(target))
    state_ids = needed_states(target, layer_ids)
    aux = []
    for layer_id in layer_ids:
        aux.append(states[:, state_ids.index(layer_id)])  # [N, H]
    final = apply_final_norm(target, states[:, -1])  # [N, H]
    return complete_features(target, torch.cat(aux, dim=-1), final)
