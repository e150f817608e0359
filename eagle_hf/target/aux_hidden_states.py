"""The target's aux hidden states, which EAGLE-3 reads.

State i is what enters layer i, HF's `hidden_states[i]`. Forward pre-hooks read it, because
`output_hidden_states=[...]` counts differently from one transformers release to the next.

B batch, S sequence, H hidden.
"""

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from eagle_hf.head.configuration import Eagle3Config, default_aux_layer_ids
from eagle_hf.target.rope import changing_ropes, rows_read_together
from eagle_hf.target.structure import decoder_layers, text_decoder, unwrap


class AuxStates:
    """The states entering some layers, collected from the target's next forward pass.

    Args:
        layer_ids: HF `hidden_states` indices, in the order that the head reads them.
    """

    def __init__(self, layer_ids: list[int]) -> None:
        self.layer_ids = list(layer_ids)
        self._states: dict[int, torch.Tensor] = {}
        self._thread = threading.get_ident()

    def hook(self, layer_id: int) -> Callable[[Any, tuple, dict[str, Any]], None]:
        """Make the forward pre-hook of a layer; it serves the thread that made this object."""

        def store(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            # another thread may run the same target
            if threading.get_ident() == self._thread:
                self._states[layer_id] = args[0] if args else kwargs["hidden_states"]

        return store

    def shapes(self) -> dict[int, torch.Size]:
        """The shapes of the states of the last forward; layers that did not run are missing."""
        return {layer_id: state.shape for layer_id, state in self._states.items()}

    def take(self) -> torch.Tensor | None:
        """Return the states of the last forward, and forget them.

        Returns:
            [B, S, 3H], in the order of `layer_ids`; None where there are none.

        Raises:
            ValueError: The target left one of the layers out, as some do without an image.
        """
        if not self.layer_ids:
            return None
        if not self._states.keys() >= set(self.layer_ids):
            left_out = sorted(set(self.layer_ids) - self._states.keys())
            raise ValueError(
                f"the target did not run its layers {left_out}, whose inputs the head reads; train "
                "a head on layers that always run: eagle_hf.target.choose_aux_layer_ids(target)"
            )
        device = self._states[self.layer_ids[0]].device  # layers may lie on several
        states = [self._states[layer_id].to(device) for layer_id in self.layer_ids]
        self._states.clear()
        return torch.cat(states, dim=-1)


@contextmanager
def capture_aux(target: Any, layer_ids: list[int]) -> Generator[AuxStates]:
    """Collect aux hidden states of a target's forward passes.

        with capture_aux(target, [2, 14, 25]) as aux:
            target(input_ids)
            states = aux.take()

    Args:
        target: A causal LM.
        layer_ids: HF `hidden_states` indices.

    Raises:
        ValueError: The target has no such layers.
    """
    layers = decoder_layers(target)
    if not layer_ids or min(layer_ids) < 0 or max(layer_ids) >= len(layers):
        raise ValueError(
            f"aux layer ids are {layer_ids} but the target has layers 0..{len(layers) - 1}"
        )
    aux = AuxStates(layer_ids)
    handles = []
    for layer_id in set(layer_ids):
        hook = aux.hook(layer_id)
        handles.append(layers[layer_id].register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield aux
    finally:
        for handle in handles:
            handle.remove()


def aux_layer_ids(target: Any, head_config: Eagle3Config) -> list[int]:
    """Return the layers that a head reads from a target.

    Args:
        target: A causal LM.
        head_config: The head's config.

    Returns:
        HF `hidden_states` indices: the head's own, or the default where a foreign head does not
        say.
    """
    return head_config.aux_layer_ids or default_aux_layer_ids(len(decoder_layers(target)))


@torch.no_grad()
def target_states(
    target: Any,
    input_ids: Sequence[torch.Tensor] | torch.Tensor,
    layer_ids: list[int],
    images: Sequence[Mapping[str, torch.Tensor] | None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the states that a head reads and those that the LM head reads.

    The LM head is not run. Padding needs no mask: causality hides it, and without a mask the fast
    attention kernels apply. A row's states are those of the row alone: where a RoPE follows the
    longest text of a forward (see rope.py), the target runs once for each of its choices. With
    images it runs once for each row: processors lay out the images of several rows in many ways.

    Args:
        target: A causal LM.
        input_ids: B rows of tokens [S], each of its own length; or a batch [B, S] without padding.
        layer_ids: HF `hidden_states` indices.
        images: The images of each row, as the target's processor prepares them for one row; None
            for a row without.

    Returns:
        (aux hidden states [B, S, 3H], final-normed states [B, S, H]), where S is the longest row.
        What lies behind the end of a shorter row means nothing.
    """
    rows = list(input_ids)
    ropes = changing_ropes(target)
    groups = [[row] for row in range(len(rows))]
    if images is None:
        groups = rows_read_together(ropes, [len(row) for row in rows])
    parts = []
    for group in groups:
        together = [rows[row] for row in group]
        longest = max(len(row) for row in together)
        if any(rope.is_dynamic and longest >= rope.limit for rope in ropes):
            _forget_longer_texts(target, together[0])
        image_inputs = None if images is None else images[group[0]]
        parts.append(_read_together(target, together, layer_ids, image_inputs))
    if len(parts) == 1:
        return parts[0]
    aux_parts, state_parts = zip(*parts, strict=True)
    return _in_one_batch(aux_parts, groups), _in_one_batch(state_parts, groups)


def _read_together(
    target: Any,
    rows: list[torch.Tensor],
    layer_ids: list[int],
    image_inputs: Mapping[str, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two results of `target_states` for rows that one forward may read."""
    padded = pad_sequence(rows, batch_first=True)  # [B, S]
    reader = text_decoder(target)
    images = {}
    if image_inputs is not None:
        model = unwrap(target)
        reader = model.base_model  # mixes images into the text, and places them
        images = prepared_images(image_inputs, padded.device, model.dtype)
    with capture_aux(target, layer_ids) as aux:
        output = reader(input_ids=padded, use_cache=False, **images)
    states = aux.take()
    assert states is not None  # capture_aux refuses an empty list
    return states, output.last_hidden_state


def _forget_longer_texts(target: Any, row: torch.Tensor) -> None:
    """Give a target of dynamic NTK its original frequencies again.

    transformers keeps those of the longest text that was read, until it reads one that is shorter
    than the limit.
    """
    text_decoder(target)(input_ids=row[None, :1], use_cache=False)


def _in_one_batch(parts: Sequence[torch.Tensor], groups: list[list[int]]) -> torch.Tensor:
    """States [B, S, W] of the groups' own [b, s, W], with zeros behind shorter rows."""
    rows = sum(len(group) for group in groups)
    longest = max(part.shape[1] for part in parts)
    batch = parts[0].new_zeros(rows, longest, parts[0].shape[-1])
    for part, group in zip(parts, groups, strict=True):
        batch[group, : part.shape[1]] = part
    return batch


def prepared_images(
    image_inputs: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Move a processor's tensors to a target.

    Args:
        image_inputs: What the processor prepares beside the tokens.
        device: Of the target.
        dtype: Of the target; pixels are given it.
    """
    prepared = {}
    for name, value in image_inputs.items():
        if value.is_floating_point():
            value = value.to(dtype)
        prepared[name] = value.to(device)
    return prepared
