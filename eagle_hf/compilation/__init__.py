"""Kernels of our own, compiled once on each machine."""
