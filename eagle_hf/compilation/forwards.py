"""Forwards as functions of tensors alone, as they are exported.

The cache's buffers are arguments, and are written to in place. Everything that a round changes, how
many tokens, how long the text and how large the buffers, is the size of some argument.

B batch, N tokens, R of them, L slots in use, T slots of the buffers, g key heads, D head width, H
hidden, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from eagle_hf.compat import attention_implementation, cache_inputs, chooses_logits
from eagle_hf.compilation.attention import load_attention
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.target import capture_aux, layer_kinds, target_logits, unwrap


class Sizes(NamedTuple):
    """B, N, R, the committed slots and T of an example."""

    batch: int
    tokens: int
    wanted: int
    base: int
    capacity: int


Mask = Tensor | dict[str, Tensor]


class ForwardInputs(NamedTuple):
    """What a forward over tokens reads and writes.

    Attributes:
        input_ids: [B, N].
        position_ids: [B, N].
        mask: bool [B, 1, N, L], True where a token may attend; or one for each kind of layer.
        slots: [B, N], where the tokens' keys and values go.
        wanted: [R], the numbers of the tokens whose logits are computed.
        buffers: [B, g, T, D], keys and values of every layer in turn.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Mask
    slots: Tensor
    wanted: Tensor
    buffers: list[Tensor]


class HeadInputs(NamedTuple):
    """What a draft head's pass over tokens reads and writes; the rest is as in `ForwardInputs`.

    Attributes:
        embeddings: [B, N, H], the target's.
        hidden: [B, N, H], fused states or outputs of the last pass.
        mask: bool [B, 1, N, L].
        buffers: [B, g, T, D], the keys and the values of its layer.
    """

    embeddings: Tensor
    hidden: Tensor
    position_ids: Tensor
    mask: Tensor
    slots: Tensor
    buffers: list[Tensor]


class RowInputs(NamedTuple):
    """Rows [R, K] of states, each computed by itself."""

    rows: Tensor


class BufferLayer(DynamicLayer):
    """A layer of a cache whose keys and values go to given slots of given buffers [B, g, T, D]."""

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor, length: Tensor | int):
        super().__init__()
        self.lazy_initialization(keys, values)
        load_attention()
        self.keys = keys
        self.values = values
        self._slots = slots
        self._length = length

    def update(self, key_states, value_states, *args, **kwargs):
        """Write keys and values [B, g, N, D]; returns the slots in use [B, g, L, D]."""
        # As an operator: a compiled scatter would copy the whole buffers.
        store = torch.ops.eagle_hf.store
        store(self.keys, self.values, key_states, value_states, self._slots)
        return self.keys[:, :, : self._length], self.values[:, :, : self._length]


class BufferShape(NamedTuple):
    """g, D and dtype of the keys and values of one layer."""

    heads: int
    width: int
    dtype: torch.dtype


class ExportedForward(nn.Module):
    """What can be compiled: a forward over tensors, and the model whose weights it reads.

    Attributes:
        model: the model.
        name: what is computed of it.
    """

    model: Any

    def __init__(self, model: nn.Module, name: str):
        super().__init__()
        self.model = model
        self.name = name

    def buffer_shapes(self) -> list[BufferShape]:
        """The keys and values that it writes to, of every layer in turn; without any, none."""
        return []

    def example(self, sizes: Sizes) -> Any:
        """Inputs of these sizes: a chain of tokens behind what a cache holds."""
        raise NotImplementedError


class NodesForward(ExportedForward):
    """A model's forward over the nodes of trees, or over a chunk of text.

    Args:
        model: a causal LM, or the decoder of one.
        layer_ids: the layers whose inputs are captured.

    Raises:
        BuildError: The operators cannot be compiled or kept.
    """

    def __init__(self, model: nn.Module, layer_ids: Sequence[int] = ()):
        super().__init__(model, f"nodes {list(layer_ids)}")
        self.layer_ids = list(layer_ids)

    def buffer_shapes(self) -> list[BufferShape]:
        return buffer_shapes(self.model)

    def example(self, sizes: Sizes) -> ForwardInputs:
        """Random tokens behind others, whose keys and values the model has written."""
        inputs = example_inputs(self.model, sizes)
        if sizes.base:
            before = Sizes(sizes.batch, sizes.base, wanted=1, base=0, capacity=sizes.capacity)
            text = example_inputs(self.model, before)._replace(buffers=inputs.buffers)
            with torch.no_grad():
                self(*text)
        return inputs

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        mask: Mask,
        slots: Tensor,
        wanted: Tensor,
        buffers: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Read tokens, given as `ForwardInputs`.

        Returns:
            Logits [B, R, V], or a decoder's states [B, N, H]; and aux hidden states [B, N, 3H]
            where layers are captured. A model whose forward takes no `logits_to_keep` computes all
            N logits.
        """
        length = (next(iter(mask.values())) if isinstance(mask, dict) else mask).shape[-1]
        layers = []
        for keys, values in zip(buffers[::2], buffers[1::2], strict=True):
            layers.append(BufferLayer(keys, values, slots, length))
        capture = capture_aux(self.model, self.layer_ids) if self.layer_ids else nullcontext()
        with capture as aux:
            outputs = self.model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=self._typed(mask),
                **self._wanted_logits(wanted),
                **cache_inputs(self.model, Cache(layers=layers)),
            )
        if aux is None:
            return (outputs[0],)
        states = aux.take()
        assert states is not None, "the layers were captured"
        return outputs[0], states

    def _wanted_logits(self, wanted: Tensor) -> dict[str, Tensor]:
        """The argument that spares a model the logits of other tokens, where it takes it."""
        return {"logits_to_keep": wanted} if chooses_logits(self.model) else {}

    def _typed(self, mask: Mask) -> Mask:
        """The mask as the model's attention takes it: eager attention would add booleans."""
        if attention_implementation(self.model.config.get_text_config()) != "eager":
            return mask
        if isinstance(mask, dict):
            return {kind: additive(part, self.model.dtype) for kind, part in mask.items()}
        return additive(mask, self.model.dtype)


class HeadForward(ExportedForward):
    """A draft head's pass over tokens, behind `fuse` or its last pass."""

    def __init__(self, head: Eagle3DraftHead):
        super().__init__(head, "head")

    def buffer_shapes(self) -> list[BufferShape]:
        config = self.model.config
        return 2 * [BufferShape(config.num_key_value_heads, config.head_dim, self.model.dtype)]

    def example(self, sizes: Sizes) -> HeadInputs:
        head = self.model
        chain = chain_inputs(sizes)
        states = (sizes.batch, sizes.tokens, head.config.hidden_size)
        assert isinstance(chain.mask, Tensor), "a head has layers of one kind"
        return HeadInputs(
            torch.randn(states, dtype=head.dtype),
            torch.randn(states, dtype=head.dtype),
            chain.position_ids,
            chain.mask,
            chain.slots,
            random_buffers(self.buffer_shapes(), sizes),
        )

    def forward(
        self,
        embeddings: Tensor,
        hidden: Tensor,
        position_ids: Tensor,
        mask: Tensor,
        slots: Tensor,
        buffers: list[Tensor],
    ) -> tuple[Tensor]:
        """Read tokens, given as `HeadInputs`; returns the output [B, N, H]."""
        layer = BufferLayer(*buffers, slots, mask.shape[-1])

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = layer.update(key.to(value.dtype), value)
            return functional.scaled_dot_product_attention(
                query.to(value.dtype), keys, values, attn_mask=mask, enable_gqa=True
            )

        return (self.model.step(embeddings, hidden, position_ids, attend),)


class LogitsForward(ExportedForward):
    """What a model makes of rows of final states.

    Args:
        model: a draft head, or a causal LM.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model, "logits")

    def example(self, sizes: Sizes) -> RowInputs:
        width = unwrap(self.model).config.get_text_config().hidden_size
        return RowInputs(torch.randn(sizes.tokens, width, dtype=self.model.dtype))

    def forward(self, rows: Tensor) -> tuple[Tensor]:
        """Logits [R, V] of rows [R, H], or [R, U] of a draft head's."""
        if isinstance(self.model, Eagle3DraftHead):
            return (self.model.logits(rows),)
        return (target_logits(self.model, rows),)


class FuseForward(ExportedForward):
    """What a draft head's first pass reads of the target's states."""

    def __init__(self, head: Eagle3DraftHead):
        super().__init__(head, "fuse")

    def example(self, sizes: Sizes) -> RowInputs:
        head = self.model
        return RowInputs(torch.randn(sizes.tokens, head.fc.in_features, dtype=head.dtype))

    def forward(self, rows: Tensor) -> tuple[Tensor]:
        """Fused states [R, H] of rows [R, 3H]."""
        return (self.model.fuse(rows),)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as one that is added to the scores."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(~mask, torch.finfo(dtype).min)


def buffer_shapes(model: Any) -> list[BufferShape]:
    """The buffers that a model's forward needs, keys and values of every layer in turn.

    One token is read to find out.
    """
    cache = DynamicCache()
    token = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        model(input_ids=token, **cache_inputs(unwrap(model), cache))
    shapes = []
    for layer in cache.layers:
        for states in (layer.keys, layer.values):
            shapes.append(BufferShape(states.shape[1], states.shape[3], states.dtype))
    return shapes


def example_inputs(model: Any, sizes: Sizes) -> ForwardInputs:
    """Inputs of random tokens behind a random cache."""
    config = unwrap(model).config.get_text_config()
    chain = chain_inputs(sizes)
    kinds = layer_kinds(config)
    mask = chain.mask
    if isinstance(mask, Tensor) and len(kinds) > 1:
        mask = {kind: mask.clone() for kind in sorted(kinds)}
    return chain._replace(
        input_ids=torch.randint(config.vocab_size, chain.slots.shape),
        mask=mask,
        buffers=random_buffers(buffer_shapes(model), sizes),
    )


def chain_inputs(sizes: Sizes) -> ForwardInputs:
    """Inputs of a chain of tokens, all of them 0, without buffers."""
    end = sizes.base + sizes.tokens
    wanted = torch.arange(sizes.wanted)
    slots = torch.arange(sizes.base, end).repeat(sizes.batch, 1)
    seen = torch.ones(sizes.tokens, end, dtype=torch.bool).tril(sizes.base)
    mask = seen.repeat(sizes.batch, 1, 1, 1)
    return ForwardInputs(torch.zeros_like(slots), slots.clone(), mask, slots, wanted, [])


def random_buffers(shapes: Sequence[BufferShape], sizes: Sizes) -> list[Tensor]:
    """Buffers [B, g, T, D] for keys and values."""
    buffers = []
    for heads, width, dtype in shapes:
        buffers.append(torch.randn(sizes.batch, heads, sizes.capacity, width, dtype=dtype))
    return buffers
