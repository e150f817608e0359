"""The one door to a language model's forward while decoding.

A forward over a tree needs four things together: a mask, the slots that its keys go to, an
attention that reads the cache in place, and the capture of the aux hidden states that a draft head
reads. Forget one and the model still runs, but computes something else. So prefill, verification,
drafting models and timing all come through here: they bring the mask, and the other three are
entered at once. (A draft head is no language model; assistants/eagle.py runs it.)

B batch, S prompt slots, N nodes, T cache slots, H hidden, V vocabulary.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import Cache

from eagle_hf.compat import cache_inputs, captures_outputs
from eagle_hf.compilation.forwards import ForwardInputs, NodesForward
from eagle_hf.compilation.packages import KeptForward
from eagle_hf.decoding.caches.drafter import DraftCache
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.compiling import compiled, is_compiled, kept_forward
from eagle_hf.decoding.tree_attention import tree_attention
from eagle_hf.target import capture_aux, execution_device, text_decoder, unwrap


class Output(NamedTuple):
    """logits [B, N, V], and aux hidden states [B, N, 3H], which are None where none are read."""

    logits: torch.Tensor
    aux: torch.Tensor | None


class TargetForward:
    """A target with its cache.

    Args:
        target: a causal LM.
        cache: where its keys and values go; a `TargetCache`, or one of transformers that grows.
        aux_layer_ids: the layers whose inputs are captured.
        attention: the block in which nodes are read; `nullcontext` leaves the model's own attention
            as it is, which copies the cache.
        compile: let nodes be read by a compiled forward, where there is one; None for what
            `compile_target` says.
    """

    def __init__(
        self,
        target,
        cache: Cache,
        aux_layer_ids: Sequence[int] = (),
        attention: Callable[[], AbstractContextManager] | None = None,
        compile: bool | None = None,
    ):
        if compile is None:
            compile = attention is None and is_compiled(target)
        self.target = target
        self.cache = cache
        self._attention = attention or tree_attention
        self._cache_inputs = cache_inputs(unwrap(target), cache)
        self._run = partial(run_hooked, target, aux_layer_ids)
        self._run_nodes = self._run
        self._places_nodes = isinstance(cache, TargetCache) and cache.capacity is not None
        if self._places_nodes:
            run = partial(run_whole, target, aux_layer_ids)
            self._run_nodes = compiled(run, execution_device(target))
        self._kept: KeptForward | None = None
        if compile and not self._places_nodes:
            self._kept = kept_forward(NodesForward(target, aux_layer_ids))

    def read_prompt(self, input_ids: torch.Tensor, **inputs) -> Output:
        """Text [B, S] behind what the cache holds, read as the model itself would."""
        return self._run(input_ids=input_ids, **(self._cache_inputs | inputs))

    def read_nodes(self, tokens: torch.Tensor, positions: torch.Tensor, mask, base: int) -> Output:
        """Tokens [B, N] at `positions`, whose keys go to the slots from `base` on.

        positions: [B, N], or [A, B, N] for a target with several axes.
        mask: what they see, as `masks.MaskFormat` makes it.
        """
        if self._kept is not None and positions.dim() == 2:
            wanted = torch.arange(tokens.shape[1])
            return self._read_compiled(self._kept, tokens, positions, mask, base, wanted)
        if self._places_nodes:
            self.cache.place(base, tokens.shape[1])
        with self._attention():
            return self._run_nodes(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=mask,
                **self._cache_inputs,
            )

    @property
    def reads_compiled_text(self) -> bool:
        """Whether `read_text` can be called: there is a compiled forward."""
        return self._kept is not None

    def read_text(self, tokens: torch.Tensor, positions: torch.Tensor, mask, base: int) -> Output:
        """Text [B, N], read as `read_nodes` reads nodes, by the compiled forward.

        Returns:
            Logits [B, n, V], of which the last are those at the text's end, and all aux states.
        """
        assert self._kept is not None, "the target is not compiled"
        if not self.cache.layers:
            self.cache.allocate(len(tokens), self._kept.buffer_shapes)
        wanted = torch.tensor([tokens.shape[1] - 1])
        return self._read_compiled(self._kept, tokens, positions, mask, base, wanted)

    def _read_compiled(
        self,
        kept: KeptForward,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask,
        base: int,
        wanted: torch.Tensor,
    ) -> Output:
        """What `read_nodes` gives, by the compiled forward; logits of tokens `wanted` [R]."""
        end = base + tokens.shape[1]
        slots = torch.arange(base, end).expand_as(tokens)
        buffers = self.cache.extend_to(end)
        inputs = ForwardInputs(tokens, positions, boolean(mask), slots, wanted, buffers)
        logits, *aux = kept(inputs)
        return Output(logits, aux[0] if aux else None)


class DraftForward:
    """A causal LM's decoder with a drafter's cache.

    Args:
        model: the causal LM.
        cache: where its keys and values go.
        keeps_size: whether the cache does, and forwards are captured on a GPU.
        compile: let nodes be read by a compiled forward, where there is one.
    """

    def __init__(self, model, cache: DraftCache, keeps_size: bool = False, compile: bool = False):
        decoder = text_decoder(model)
        device = execution_device(model)
        self.decoder = decoder
        self.cache = cache
        self._kept: KeptForward | None = None
        if compile and not keeps_size:
            self._kept = kept_forward(NodesForward(decoder))
        self._cache_inputs = cache_inputs(decoder, cache)
        self._run_nodes = compiled(decoder, device) if keeps_size else decoder

    def read_prompt(
        self, tokens: torch.Tensor, positions: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        """Output [B, S, H] for a prompt padded on the right; the cache keeps numbers `kept`."""
        self.cache.place_prompt(kept)
        inputs = dict(input_ids=tokens, position_ids=positions, attention_mask=None)
        return self.decoder(**inputs, **self._cache_inputs).last_hidden_state

    def read_nodes(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask, slots: torch.Tensor, length: int
    ) -> torch.Tensor:
        """Output [B, N, H] for tokens [B, N], whose keys go to `slots` [B, N] of `length`."""
        if self._kept is not None:
            buffers = self.cache.extend_to(length)
            wanted = torch.arange(tokens.shape[1])  # of a decoder nothing is left out
            inputs = ForwardInputs(tokens, positions, boolean(mask), slots, wanted, buffers)
            return self._kept(inputs)[0]
        self.cache.place(slots, length)
        inputs = dict(input_ids=tokens, position_ids=positions, attention_mask=mask)
        with tree_attention():
            return self._run_nodes(**inputs, **self._cache_inputs).last_hidden_state


def boolean(mask: Any) -> Any:
    """Masks that are True where attention is allowed, of bool or additive ones."""
    if isinstance(mask, dict):
        return {kind: boolean(part) for kind, part in mask.items()}
    return mask if mask.dtype == torch.bool else mask == 0


def run_hooked(target, layer_ids: Sequence[int], **inputs) -> Output:
    """A forward that captures the inputs of `layer_ids` by hooks."""
    if not layer_ids:
        return Output(target(**inputs, return_dict=True).logits, None)
    with capture_aux(target, list(layer_ids)) as aux:
        logits = target(**inputs, return_dict=True).logits
    return Output(logits, aux.take())


def run_whole(target, layer_ids: Sequence[int], **inputs) -> Output:
    """The same without hooks, for graphs.

    It asks for the hidden states of all layers, of which a compiler computes those that are used.
    """
    outputs = target(**inputs, return_dict=True, output_hidden_states=bool(layer_ids))
    aux = None
    if layer_ids:
        aux = torch.cat([outputs.hidden_states[index] for index in layer_ids], dim=-1)
    return Output(outputs.logits, aux)


def install_output_capture(target, input_ids: torch.Tensor) -> None:
    """Let transformers hook the target's layers, which it does at the first call that asks.

    A compiler cannot follow that, so it must happen before a graph is captured.
    """
    if not captures_outputs(text_decoder(target)):
        run_whole(target, [0], input_ids=input_ids)
