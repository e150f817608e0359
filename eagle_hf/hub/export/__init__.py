"""A head for one engine: our own layout with layer ids as that engine counts them, or vLLM's other.

What `save_pretrained` writes serves everywhere while the head reads the default layers,
(2, n//2, n-3): then no ids are written, and every engine falls back to them. Other ids mean other
layers to different engines, so each gets a folder of its own; engines.py says who counts how. The
second layout is that of the speculators library, which `vllm serve` starts alone.

The engines' sources were read; folders written here were loaded by those that tests/engines names.
"""

from eagle_hf.hub.export.exporting import export_head, named_target
from eagle_hf.hub.export.layouts import LAYOUTS

__all__ = ["LAYOUTS", "export_head", "named_target"]
