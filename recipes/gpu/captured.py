"""CUDA graphs of forwards as they are, without a compiler: what it gains to capture alone.

Inputs are copied to where they lay when a graph was captured. The slots that keys are written to
are no arguments, so they are made to keep their address as well.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils import _pytree as pytree

from eagle_hf.decoding import forward
from eagle_hf.decoding.assistants import eagle
from eagle_hf.decoding.caches.drafter import DraftCache, SlotPlacement
from eagle_hf.decoding.caches.target import TargetCache

WARM_UPS = 2  # calls before a capture: libraries allocate their workspaces


class Captured:
    """A function whose calls are replayed from CUDA graphs, one for each set of shapes."""

    def __init__(self, function: Callable):
        self.function = function
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list, Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self.graphs:
            self.graphs[key] = self.capture(leaves, structure)
        graph, inputs, outputs = self.graphs[key]
        for own, given in zip(inputs, tensors, strict=True):
            own.copy_(given)
        graph.replay()
        return outputs

    def capture(self, leaves: list, structure: Any) -> tuple[torch.cuda.CUDAGraph, list, Any]:
        """A graph, its inputs and its outputs."""
        own = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(own, structure)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self.function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*args, **kwargs)
        return graph, [leaf for leaf in own if isinstance(leaf, torch.Tensor)], outputs


def placed_in_target(cache: TargetCache, base: int, nodes: int) -> None:
    """`TargetCache.place` into tensors that stay."""
    slots = torch.arange(base, base + nodes, device=cache.layers[0]._keys.device)
    kept = cache.__dict__.setdefault("kept_slots", {}).setdefault(nodes, slots)
    kept.copy_(slots)
    for layer in cache.layers:
        layer.slots = kept
        layer.set_length(base + nodes)


def placed_in_drafter(cache: DraftCache, slots: torch.Tensor, length: int) -> None:
    """`DraftCache.place` into tensors that stay."""
    kept = cache.__dict__.setdefault("kept_slots", {}).setdefault(slots.shape, slots.clone())
    kept.copy_(slots)
    cache.placement = SlotPlacement(kept, length)
    if cache.pool is None:
        return
    for layer in cache.layers:
        layer.settle(cache.pool, cache.size)


@contextmanager
def capturing() -> Generator[None]:
    """Inside the block, compile=True captures and does not compile."""

    def captured(function: Callable, device: torch.device) -> Callable:
        return Captured(function)

    with (
        mock.patch.object(forward, "compiled", captured),
        mock.patch.object(eagle, "compiled", captured),
        mock.patch.object(TargetCache, "place", placed_in_target),
        mock.patch.object(DraftCache, "place", placed_in_drafter),
    ):
        yield
