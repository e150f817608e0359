"""Target features: computed for a batch, turned into what a shard stores, and turned back.

N tokens of a batch without padding, S tokens of one conversation, B conversations of a batch,
H hidden size, n states of a token: its aux hidden states and the final one, 4 in EAGLE-3.
"""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from eagle_hf.data.features.shards import STORED, Layout, dequantise, quantise
from eagle_hf.data.rows import TargetFeatures
from eagle_hf.target import execution_device, next_token_summary, target_states

IDS_SHOWN = 8  # of a batch, in an error


def compute_features(
    target: PreTrainedModel,
    input_ids: Sequence[torch.Tensor],
    layer_ids: list[int],
    ids: Sequence[str],
) -> TargetFeatures:
    """Run the target over a batch of conversations.

    Args:
        target: in eval mode.
        input_ids: tokens of B conversations, int64, shapes [S].
        layer_ids: whose inputs are the aux hidden states, as in `target_states`.
        ids: of the conversations, for an error.

    Returns:
        The features of all N tokens, one conversation after another, on the target's device.

    Raises:
        ValueError: a state is not finite.
    """
    lengths = torch.tensor([len(tokens) for tokens in input_ids])
    device = execution_device(target)
    rows = [tokens.to(device) for tokens in input_ids]
    aux, states = target_states(target, rows, layer_ids)  # [B, longest, ...]
    is_token = torch.arange(aux.shape[1]) < lengths[:, None]  # [B, longest]
    aux = aux[is_token.to(aux.device)]  # [N, 3H]
    states = states[is_token.to(states.device)]  # [N, H]
    is_finite = aux.isfinite().all() and states.isfinite().all()
    if not is_finite:
        raise ValueError(
            f"the target's states are not finite in the batch of {list(ids[:IDS_SHOWN])}; "
            "load the target in bfloat16 or float32"
        )
    return complete_features(target, aux, states)


def complete_features(
    target: PreTrainedModel, aux: torch.Tensor, states: torch.Tensor
) -> TargetFeatures:
    """Add to the states of N tokens what the target's LM head makes of them.

    Args:
        target: whose LM head it is.
        aux: the aux hidden states, shape [N, 3H].
        states: final hidden states after the last norm, shape [N, H].

    Returns:
        The features of these tokens.
    """
    best, log_normaliser = next_token_summary(target, states)
    assert log_normaliser is not None, "it is asked for by default"
    return TargetFeatures(aux, states, best, log_normaliser)


def stack_states(features: TargetFeatures, num_states: int) -> torch.Tensor:
    """The aux hidden states and the final state of every token, shape [N, n, H]."""
    states = torch.cat([features.aux_hidden_states, features.hidden_states], dim=-1)
    return states.unflatten(-1, (num_states, -1))


def store_features(
    target: PreTrainedModel,
    features: TargetFeatures,
    layout: Layout,
    spread: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """Convert features into the tensors of a shard.

    The log-normaliser that is stored belongs to the states as they will be read, because the
    probabilities a reader computes must add up to one.

    Args:
        target: computes log-normalisers.
        features: of N tokens.
        layout: of the shards.
        spread: with int8 the usual size of every dimension, shape [n, H].

    Returns:
        Tensors by their name in the layout, N rows each.
    """
    stored = STORED[layout.dtype]
    if stored == torch.int8:
        assert spread is not None, "int8 needs a spread"
        tensors, restored = _quantise_features(features, layout, spread)
    else:
        restored = features.hidden_states.to(stored)
        tensors = {
            "aux_hidden_states": features.aux_hidden_states.to(stored),
            "hidden_states": restored,
        }
    # As the target's LM head will get them.
    restored = restored.to(features.hidden_states.dtype)
    log_normaliser = features.log_normaliser
    if not torch.equal(restored, features.hidden_states):
        # With the true normaliser int8 probabilities add up to 0.6 to 1.2 on SmolLM2.
        _, log_normaliser = next_token_summary(target, restored)
        assert log_normaliser is not None, "it is asked for by default"
    return tensors | {"best": features.best, "log_normaliser": log_normaliser}


def _quantise_features(
    features: TargetFeatures, layout: Layout, spread: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The int8 tensors of a shard, and the final states [N, H] that a reader will get."""
    states = stack_states(features, layout.num_states)  # [N, n, H]
    spread = spread.to(states.device)
    values, scales = quantise(states, spread)
    tensors = {
        "scales": scales,  # [N, n]
        "aux_hidden_states": values[:, :-1].flatten(1),  # [N, 3H]
        "hidden_states": values[:, -1],  # [N, H]
    }
    return tensors, dequantise(values, scales, spread)[:, -1]


def restore_features(
    tensors: Mapping[str, torch.Tensor], layout: Layout, spread: torch.Tensor | None
) -> TargetFeatures:
    """Convert the tensors of a shard back into features.

    Args:
        tensors: of one conversation, as `Layout.decode` returns them.
        layout: of the shards.
        spread: with int8 the usual size of every dimension, shape [n, H].

    Returns:
        Features of S tokens. States that are stored as int8 are float32.
    """
    aux = tensors["aux_hidden_states"]  # [S, 3H]
    states = tensors["hidden_states"]  # [S, H]
    if spread is not None:
        values = torch.cat([aux, states], dim=-1).unflatten(-1, (layout.num_states, -1))
        all_states = dequantise(values, tensors["scales"], spread)  # [S, n, H]
        aux = all_states[:, :-1].flatten(1)
        states = all_states[:, -1]
    return TargetFeatures(
        aux_hidden_states=aux,
        hidden_states=states,
        best=tensors["best"].long(),
        log_normaliser=tensors["log_normaliser"],
    )
