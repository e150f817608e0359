"""Kernels of our own, compiled once on each machine."""

from eagle_hf.compilation.operators import is_available, linear, linears

__all__ = ["is_available", "linear", "linears"]
