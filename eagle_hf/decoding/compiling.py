"""Forwards as one compiled graph each: for rounds whose tensors keep their sizes (`TreeConfig(compile=True)`)."""

from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch

_lent: WeakKeyDictionary = (
    WeakKeyDictionary()
)  # assistant -> the tensors of the last call that ended, in their order


def compiled(function: Callable, device: torch.device) -> Callable:
    """On a GPU the function compiled without a break and captured as a CUDA graph, on a CPU the function itself.

    A captured graph writes its results where the last ones lay: begin every round with `begin_round`, and keep no result longer.
    """
    if device.type != "cuda":
        return function
    return torch.compile(function, fullgraph=True, dynamic=False, mode="reduce-overhead")


def fixed_size(slots: int) -> int:
    """Slots of a cache that never changes its size, `slots` or more: powers of two, so that calls of many lengths share few graphs."""
    return max(256, 1 << (slots - 1).bit_length())


class Buffers:
    """Where the caches of one call lie. A captured graph knows their addresses, so a next call of the same sizes gets the same ones.

    Those of one call are kept; calls that run at once have tensors of their own.
    """

    def __init__(self, assistant):
        self._assistant, self._former, self._taken = assistant, deque(_lent.pop(assistant, ())), []

    def zeros(self, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """`like.new_zeros(*shape)`, the place taken by the former call's tensor of the same number if it had this size."""
        buffer = self._former.popleft() if self._former else None
        if buffer is None or not _alike(buffer, like, shape):
            self._former.clear()
            buffer = like.new_zeros(*shape)
            if buffer.device.type == "cuda":
                torch._dynamo.mark_static_address(buffer)
        self._taken.append(buffer)
        return buffer.zero_()

    def give_back(self) -> None:
        """The call has ended; nobody reads its caches any more."""
        if self._taken and self._taken[0].device.type == "cuda":
            torch.cuda.current_stream(
                self._taken[0].device
            ).synchronize()  # the next call may be on another stream
        _lent[self._assistant] = self._taken


def forget(assistant) -> None:
    """Let go of what is kept for its next call."""
    _lent.pop(assistant, None)


def _alike(buffer: torch.Tensor, like: torch.Tensor, shape: Sequence[int]) -> bool:
    same = (buffer.shape, buffer.dtype, buffer.device) == (
        torch.Size(shape),
        like.dtype,
        like.device,
    )
    return (
        same and buffer.is_inference() == torch.is_inference_mode_enabled()
    )  # one made in inference mode may not be written to outside


def begin_round() -> None:
    """What captured graphs wrote in the last round may be written over. Only for those: the first call loads the compiler, for seconds."""
    torch.compiler.cudagraph_mark_step_begin()
