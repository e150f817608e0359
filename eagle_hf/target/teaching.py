"""Whether a head can learn from a target.

Training takes a target's hidden states where it expects them, and computes logits from the final
ones by the LM head. Not every model is built like that. So a few random tokens are read once,
before anything is learnt or written, and both are compared with what the model itself says.

S tokens, H hidden, V vocabulary.
"""

import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from eagle_hf.head.configuration import default_aux_layer_ids
from eagle_hf.target.aux_hidden_states import capture_aux
from eagle_hf.target.logits import target_logits
from eagle_hf.target.matrices import execution_device
from eagle_hf.target.ordinary_tokens import ordinary_ids
from eagle_hf.target.quantised import finish_loading
from eagle_hf.target.structure import check_lm_head, decoder_layers, text_decoder, unwrap

PROBED_TOKENS = 8
# Largest difference of two ways to the same logits, as a share of the largest logit.
TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 1e-2}
TOLERANCE = 1e-3


@torch.no_grad()
def check_teacher(target: Any, layer_ids: list[int]) -> None:
    """Check that a target's states and logits are what a head learns from.

    It costs two forwards of a few tokens.

    Args:
        target: A causal LM in eval mode.
        layer_ids: HF `hidden_states` indices that the head reads.

    Raises:
        ValueError: They are not. The message says what was found.
    """
    check_lm_head(target)
    input_ids = _random_text(target)  # [1, S]
    states, shapes, expected = _read(target, input_ids, layer_ids)
    if any(shapes.get(layer_id) != expected for layer_id in layer_ids):
        raise ValueError(_other_states(target, layer_ids, shapes, expected))
    if states.shape != expected:
        raise ValueError(
            f"the final states of {type(unwrap(target)).__name__} are {list(states.shape)}, not "
            f"{list(expected)}: a head's LM head starts from the target's and reads states as wide "
            "as the embeddings. Use another target, or plain decoding"
        )
    _check_logits(target, input_ids, states)


@torch.no_grad()
def choose_aux_layer_ids(target: Any) -> list[int]:
    """Choose the layers whose inputs a new head reads.

    They are EAGLE-3's three, or the nearest that always run and that one state a token enters. It
    costs a forward of a few tokens.

    Args:
        target: A causal LM in eval mode.

    Returns:
        HF `hidden_states` indices.

    Raises:
        ValueError: There are no three such layers.
    """
    layers = len(decoder_layers(target))
    wanted = default_aux_layer_ids(layers)
    _, shapes, expected = _read(target, _random_text(target), list(range(layers)))
    readable = [layer_id for layer_id, shape in shapes.items() if shape == expected]
    if set(wanted) <= set(readable):
        return wanted

    chosen = [layer_id for layer_id in wanted if layer_id in readable]
    for layer_id in sorted(set(wanted) - set(readable)):
        others = sorted(set(readable) - set(chosen) - set(wanted))
        if not others:
            raise ValueError(_other_states(target, wanted, shapes, expected))
        chosen.append(min(others, key=partial(_distance, layer_id)))
    return sorted(chosen)


def _read(
    target: Any, input_ids: torch.Tensor, layer_ids: list[int]
) -> tuple[torch.Tensor, dict[int, torch.Size], torch.Size]:
    """The final states, the shapes that enter layers, and that of a state for each token."""
    finish_loading(target)
    model = unwrap(target)
    with capture_aux(target, layer_ids) as aux, _reading_text(model):
        expected = model.get_input_embeddings()(input_ids).shape  # [1, S, H]
        states = text_decoder(target)(input_ids=input_ids, use_cache=False).last_hidden_state
        return states, aux.shapes(), expected


@contextmanager
def _reading_text(model: Any) -> Generator[None]:
    """Name a model that cannot read tokens without anything else."""
    try:
        yield
    except Exception as error:  # of any kind, whatever the model misses first
        reason = textwrap.shorten(str(error), 200)
        raise ValueError(
            f"{type(model).__name__} cannot read a text given as token ids alone ({reason}); use "
            "another target"
        ) from error


def _distance(layer_id: int, other: int) -> int:
    """How many layers lie between two."""
    return abs(layer_id - other)


def _other_states(
    target: Any, layer_ids: list[int], shapes: dict[int, torch.Size], expected: torch.Size
) -> str:
    """What is wrong with the states that enter these layers."""
    found = []
    for layer_id in layer_ids:
        shape = shapes.get(layer_id)
        found.append("not run" if shape is None else str(list(shape)))
    return (
        f"the states that enter layers {layer_ids} of {type(unwrap(target)).__name__} are "
        f"{', '.join(found)}, where a head reads one state a token, as wide as its embedding: "
        f"{list(expected)}. Use another target, or plain decoding"
    )


def _random_text(target: Any) -> torch.Tensor:
    """Random ordinary tokens [1, S]."""
    own = torch.Generator("cpu").manual_seed(0)  # leaves the caller's random numbers alone
    ids = torch.tensor(ordinary_ids(unwrap(target).config), device=own.device)
    chosen = torch.randperm(len(ids), generator=own, device=own.device)[:PROBED_TOKENS]
    return ids[chosen][None].to(execution_device(target))


def _check_logits(target: Any, input_ids: torch.Tensor, states: torch.Tensor) -> None:
    """Refuse a target whose logits are not those that its LM head makes of its final states."""
    model = unwrap(target)
    with _reading_text(model):
        theirs = model(input_ids=input_ids, use_cache=False).logits  # [1, S, V]
    ours = target_logits(target, states).to(theirs.device)
    if ours.shape == theirs.shape:
        largest = theirs.abs().nan_to_num(0).max()
        tolerance = float(largest) * TOLERANCES.get(model.dtype, TOLERANCE)
        # NaN is named where it is met: in a batch, with its conversations
        if torch.allclose(ours.float(), theirs.float(), rtol=0, atol=tolerance, equal_nan=True):
            return
    raise ValueError(
        f"{type(model).__name__} gives other logits than its LM head makes of its final states. "
        "Its forward does more to them than this package knows, so a head would learn wrong "
        "probabilities; use another target, or plain decoding"
    )
