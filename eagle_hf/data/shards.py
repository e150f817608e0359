"""How features lie in a shard: a safetensors file that holds one conversation after another.

    header length (8 bytes) | header (JSON) | conversation 0: tokens, states | conversation 1: tokens, states | ...

One range of bytes is one conversation, and its first part alone is its tokens. `k.name` in the header is the tensor
`name` of the shard's conversation k:

    tokens  input_ids int32 [S]; loss_mask uint8 [S], zeros up to a multiple of 4, which keeps all that follows aligned
    states  best int32 [S]; log_normaliser float32 [S]; with int8 scales float32 [S, streams]
            aux_hidden_states [S, (streams - 1) H]; hidden_states [S, H], in float32, bfloat16 or int8

int8 divides every dimension by its usual size (`spread`, measured once per folder) and then every token, stream by
stream, by a scale of its own. Why: a few dimensions of the streams are hundreds of times larger than the rest. On
SmolLM2-135M, 473 tokens, int8 without the spread moved the next-token distribution by 3.1e-3 (KL), with it by 5.5e-4.

S tokens, N tokens of a batch, H hidden; streams counts the aux streams and the final state, 4 in EAGLE-3.
"""

import json
import math
from dataclasses import dataclass

import torch

STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
HEADER_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.uint8: "U8",
}
TOKENS = ("input_ids", "loss_mask")
SMALLEST_SPREAD = 1e-3  # of a stream's mean: a dimension that was silent in the first batch must not blow up later


@dataclass(frozen=True)
class Layout:
    """Which tensors a conversation has, in which order, type and size."""

    hidden_size: int
    streams: int
    dtype: str

    def __post_init__(self):
        if self.dtype not in STORED:
            raise ValueError(
                f"the storage dtype is {self.dtype!r}; choose one of {', '.join(STORED)}"
            )

    def parts(self, length: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of every tensor of a conversation of `length` tokens, in the order of the file."""
        parts = {
            "input_ids": (torch.int32, (length,)),
            "loss_mask": (torch.uint8, (length + -length % 4,)),
            "best": (torch.int32, (length,)),
            "log_normaliser": (torch.float32, (length,)),
        }
        if self.dtype == "int8":
            parts["scales"] = (torch.float32, (length, self.streams))
        parts["aux_hidden_states"] = (
            STORED[self.dtype],
            (length, (self.streams - 1) * self.hidden_size),
        )
        parts["hidden_states"] = (STORED[self.dtype], (length, self.hidden_size))
        return parts

    def sizes(self, length: int) -> tuple[int, int]:
        """Bytes of a conversation's tokens and of its states."""
        bytes_of = {
            name: dtype.itemsize * math.prod(shape)
            for name, (dtype, shape) in self.parts(length).items()
        }
        tokens = sum(bytes_of[name] for name in TOKENS)
        return tokens, sum(bytes_of.values()) - tokens

    def header(self, lengths: list[int]) -> bytes:
        """The first bytes of a shard with conversations of these lengths."""
        entries, end = {}, 0
        for number, length in enumerate(lengths):
            for name, (dtype, shape) in self.parts(length).items():
                start, end = end, end + dtype.itemsize * math.prod(shape)
                entries[f"{number}.{name}"] = {
                    "dtype": HEADER_NAMES[dtype],
                    "shape": shape,
                    "data_offsets": [start, end],
                }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def encode(self, parts: dict[str, torch.Tensor]) -> tuple[bytes, bytes]:
        """The bytes of a conversation's tokens and of its states; `parts` are tensors on the CPU."""
        length, encoded = len(parts["input_ids"]), {}
        for name, (dtype, shape) in self.parts(length).items():
            tensor = parts[name].to(dtype)
            if name == "loss_mask":
                tensor = torch.nn.functional.pad(tensor, (0, shape[0] - length))
            assert tuple(tensor.shape) == shape, (
                f"{name} has shape {tuple(tensor.shape)}, its place has {shape}"
            )
            encoded[name] = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        tokens = b"".join(encoded.pop(name) for name in TOKENS)
        return tokens, b"".join(encoded.values())

    def decode(self, data: bytes, length: int) -> dict[str, torch.Tensor]:
        """The tensors of a conversation, or of its first part, as far as `data` goes; loss_mask without its padding."""
        buffer, offset, tensors = bytearray(data), 0, {}
        for name, (dtype, shape) in self.parts(length).items():
            if offset == len(buffer):
                break
            count = math.prod(shape)
            tensors[name] = torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset).view(
                shape
            )
            offset += dtype.itemsize * count
        tensors["loss_mask"] = tensors["loss_mask"][:length]
        return tensors


def conversation_starts(header: bytes) -> list[int]:
    """Where each conversation of a shard begins, in bytes from the start of the file."""
    entries = json.loads(header[8:])
    count = sum(name.endswith(".input_ids") for name in entries)
    return [
        len(header) + entries[f"{number}.input_ids"]["data_offsets"][0] for number in range(count)
    ]


def measure_spread(states: torch.Tensor) -> torch.Tensor:
    """The usual size [streams, H] of every dimension of states [N, streams, H]: the mean of its absolute values.

    Not its root mean square: a conversation's first token can be a thousand times larger than all others.
    """
    spread = states.float().abs().mean(0)
    return spread.clamp(min=1e-30).maximum(SMALLEST_SPREAD * spread.mean(-1, keepdim=True))


def quantise(states: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 values [N, streams, H], float32 scales [N, streams]), symmetric, of states [N, streams, H].

    `dequantise` is off by at most half of scale x spread.
    """
    states = states.float() / spread
    scales = states.abs().amax(-1).clamp(min=1e-30) / 127
    return (states / scales[..., None]).round().clamp(-127, 127).to(torch.int8), scales


def dequantise(values: torch.Tensor, scales: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """The states [N, streams, H] in float32."""
    return values.float() * scales[..., None] * spread
