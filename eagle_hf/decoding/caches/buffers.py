"""The tensors that caches lie in: growing ones, and ones that keep their address from call to call.

B batch, h key heads, T slots, D head width.
"""

from collections import deque
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

SLACK = 128  # slots beyond the prompt: room for the first rounds

# Module state: assistant -> the buffers of its last call that ended, in the order of their use.
_released: WeakKeyDictionary = WeakKeyDictionary()


def with_room(buffer: torch.Tensor, slots: int, limit: int | None = None) -> torch.Tensor:
    """The buffer [B, h, T, D], or a larger copy of it if it has fewer than `slots` slots.

    A copy has twice the slots, so that appending stays linear in time, but no more than `limit`
    unless `slots` asks for more.
    """
    batch, heads, capacity, width = buffer.shape
    if slots <= capacity:
        return buffer
    room = max(slots + SLACK, 2 * capacity)
    if limit is not None:
        room = max(slots, min(room, limit))
    larger = buffer.new_zeros(batch, heads, room, width)  # zeros: unused slots are read, masked
    larger[:, :, :capacity] = buffer
    return larger


def room_in(layers: Sequence, slots: int) -> list[torch.Tensor]:
    """Let every layer of a cache `make_room`; their buffers, keys and values in turn."""
    buffers: list[torch.Tensor] = []
    for layer in layers:
        buffers += layer.make_room(slots)
    return buffers


class BufferPool:
    """Buffers of one call, at the addresses of the last call's where their sizes agree.

    A captured CUDA graph knows the addresses of the caches it was captured with. So the buffers of
    the last call are kept per assistant, and the next call takes them in the same order. Calls that
    run at the same time have buffers of their own.
    """

    def __init__(self, assistant):
        self._assistant = assistant
        self._former = deque(_released.pop(assistant, ()))
        self._taken: list[torch.Tensor] = []

    def zeros(self, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """`like.new_zeros(*shape)`, in the former call's buffer if that has this size."""
        buffer = self._former.popleft() if self._former else None
        if buffer is None or not _fits(buffer, like, shape):
            self._former.clear()
            buffer = like.new_zeros(*shape)
            if buffer.device.type == "cuda":
                torch._dynamo.mark_static_address(buffer)
        self._taken.append(buffer)
        return buffer.zero_()

    def release(self) -> None:
        """Keep the buffers for the assistant's next call; nothing reads them any more."""
        if self._taken and self._taken[0].device.type == "cuda":
            # the next call may run on another stream
            torch.cuda.current_stream(self._taken[0].device).synchronize()
        _released[self._assistant] = self._taken


def discard_buffers(assistant) -> None:
    """Free what is kept for the assistant's next call."""
    _released.pop(assistant, None)


def _fits(buffer: torch.Tensor, like: torch.Tensor, shape: Sequence[int]) -> bool:
    """Whether a buffer can stand in for `like.new_zeros(*shape)`."""
    if buffer.shape != torch.Size(shape) or buffer.dtype != like.dtype:
        return False
    # a tensor made in inference mode may not be written to outside of it
    was_inference = buffer.is_inference()
    return buffer.device == like.device and was_inference == torch.is_inference_mode_enabled()
