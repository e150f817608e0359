"""How features lie in a shard: a safetensors file that holds one conversation after another.

    header length (8 bytes) | header (JSON) | conversation 0 | conversation 1 | ...
                                             tokens, states    tokens, states

One range of bytes is one conversation, and its first part alone is its tokens. `k.name` in the
header is the tensor `name` of the shard's conversation k:

    tokens  input_ids int32 [S]
            loss_mask uint8 [S], zeros up to a multiple of 4, which aligns all that follows
    states  best int32 [S]
            log_normaliser float32 [S]
            scales float32 [S, n], with int8 only
            aux_hidden_states [S, (n - 1) H] in float32, bfloat16 or int8
            hidden_states [S, H] in the same type

int8 divides every dimension by its usual size (`spread`, measured once for each folder), and then
the n states of every token by a scale each. Why: a few dimensions of a hidden state are hundreds of
times larger than the rest. On SmolLM2-135M, 473 tokens, int8 without the spread moved the
next-token distribution by 3.1e-3 (KL), with it by 5.5e-4.

S tokens of a conversation, N tokens of a batch, H hidden size, n states of a token: its aux hidden
states and the final one, 4 in EAGLE-3.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

# Names of dtypes in a safetensors header.
HEADER_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.uint8: "U8",
}

TOKENS = ("input_ids", "loss_mask")
MASK_ALIGNMENT = 4  # bytes
HEADER_ALIGNMENT = 8  # bytes; safetensors asks for it
LENGTH_BYTES = 8  # of the header's length, at the start of the file

# A dimension that is silent in the first batch may speak up later. So its spread is at least this
# share of its state's mean.
SMALLEST_SPREAD = 1e-3
TINY = 1e-30  # keeps divisions by a state of zeros finite
INT8_MAX = 127


class TensorSpec(NamedTuple):
    """Type and shape of a stored tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * self.numel


class ConversationBytes(NamedTuple):
    """How many bytes a conversation takes in a shard."""

    tokens: int
    states: int

    @property
    def total(self) -> int:
        return self.tokens + self.states


@dataclass(frozen=True)
class Layout:
    """Which tensors a conversation has, in which order, type and size.

    Attributes:
        hidden_size: H.
        num_states: n, the aux hidden states of a token and the final one.
        dtype: of the stored states, a key of `STORED`.
    """

    hidden_size: int
    num_states: int
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in STORED:
            raise ValueError(
                f"the storage dtype is {self.dtype!r}; choose one of {', '.join(STORED)}"
            )

    def specs(self, length: int) -> dict[str, TensorSpec]:
        """The tensors of a conversation of `length` tokens, by name, in the order of the file."""
        padding = -length % MASK_ALIGNMENT
        aux_size = (self.num_states - 1) * self.hidden_size
        stored = STORED[self.dtype]
        specs = {
            "input_ids": TensorSpec(torch.int32, (length,)),
            "loss_mask": TensorSpec(torch.uint8, (length + padding,)),
            "best": TensorSpec(torch.int32, (length,)),
            "log_normaliser": TensorSpec(torch.float32, (length,)),
        }
        if self.dtype == "int8":
            specs["scales"] = TensorSpec(torch.float32, (length, self.num_states))
        specs["aux_hidden_states"] = TensorSpec(stored, (length, aux_size))
        specs["hidden_states"] = TensorSpec(stored, (length, self.hidden_size))
        return specs

    def count_bytes(self, length: int) -> ConversationBytes:
        """The size of a conversation of `length` tokens."""
        tokens = 0
        states = 0
        for name, spec in self.specs(length).items():
            if name in TOKENS:
                tokens += spec.nbytes
            else:
                states += spec.nbytes
        return ConversationBytes(tokens, states)

    def make_header(self, lengths: list[int]) -> bytes:
        """The first bytes of a shard with conversations of these lengths."""
        entries = {}
        start = 0  # offsets count from the end of the header
        for number, length in enumerate(lengths):
            for name, spec in self.specs(length).items():
                end = start + spec.nbytes
                entries[f"{number}.{name}"] = {
                    "dtype": HEADER_NAMES[spec.dtype],
                    "shape": spec.shape,
                    "data_offsets": [start, end],
                }
                start = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % HEADER_ALIGNMENT)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    def encode(self, tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, bytes]:
        """Encode a conversation.

        Args:
            tensors: those of `specs`, on the CPU, in any dtype.

        Returns:
            The bytes of its tokens, and those of its states.
        """
        tokens = []
        states = []
        for name, spec in self.specs(len(tensors["input_ids"])).items():
            tensor = tensors[name].to(spec.dtype)
            if name == "loss_mask":
                padding = spec.numel - len(tensor)
                tensor = torch.nn.functional.pad(tensor, (0, padding))
            assert tuple(tensor.shape) == spec.shape, (
                f"{name} has shape {tuple(tensor.shape)}, its place has {spec.shape}"
            )
            # numpy knows no bfloat16, so the tensor is passed on as plain bytes.
            encoded = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            part = tokens if name in TOKENS else states
            part.append(encoded)
        return b"".join(tokens), b"".join(states)

    def decode(self, data: bytes, length: int) -> dict[str, torch.Tensor]:
        """Decode a conversation of `length` tokens.

        Args:
            data: its bytes, or only those of its tokens.
            length: S.

        Returns:
            The tensors that `data` holds, by name, in their stored types. The padding of
            loss_mask is gone.
        """
        # A copy, because torch wants memory that may be written to. The tensors share it.
        buffer = bytearray(data)
        tensors = {}
        offset = 0
        for name, spec in self.specs(length).items():
            if offset == len(buffer):
                break
            flat = torch.frombuffer(buffer, dtype=spec.dtype, count=spec.numel, offset=offset)
            tensors[name] = flat.view(spec.shape)
            offset += spec.nbytes
        tensors["loss_mask"] = tensors["loss_mask"][:length]
        return tensors


def conversation_starts(header: bytes) -> list[int]:
    """Read where each conversation of a shard begins.

    Args:
        header: the first bytes of the shard, as `Layout.make_header` makes them.

    Returns:
        Offsets from the start of the file, in bytes.
    """
    entries: dict[str, Any] = json.loads(header[LENGTH_BYTES:])
    count = sum(name.endswith(".input_ids") for name in entries)
    starts = []
    for number in range(count):
        offset, _ = entries[f"{number}.input_ids"]["data_offsets"]
        starts.append(len(header) + offset)
    return starts


def measure_spread(states: torch.Tensor) -> torch.Tensor:
    """Measure the usual size of every dimension: the mean of its absolute values.

    Not the root mean square: a conversation's first token can be a thousand times larger than all
    others.

    Args:
        states: of a first batch, shape [N, n, H].

    Returns:
        Positive float32 values of shape [n, H].
    """
    spread = states.float().abs().mean(0)  # [n, H]
    floor = SMALLEST_SPREAD * spread.mean(-1, keepdim=True)  # [n, 1]
    return spread.clamp(min=TINY).maximum(floor)


def quantise(states: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise states to int8, symmetrically.

    `dequantise` is off by at most half of scale x spread.

    Args:
        states: shape [N, n, H].
        spread: of `measure_spread`, shape [n, H].

    Returns:
        int8 values of shape [N, n, H], and float32 scales of shape [N, n].
    """
    states = states.float() / spread  # every dimension of about one size
    largest = states.abs().amax(-1)  # [N, n]
    scales = largest.clamp(min=TINY) / INT8_MAX
    values = (states / scales[..., None]).round().clamp(-INT8_MAX, INT8_MAX)
    return values.to(torch.int8), scales


def dequantise(values: torch.Tensor, scales: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Undo `quantise`, up to rounding.

    Args:
        values: int8, shape [N, n, H].
        scales: shape [N, n].
        spread: shape [n, H].

    Returns:
        float32 states of shape [N, n, H].
    """
    return values.float() * scales[..., None] * spread
