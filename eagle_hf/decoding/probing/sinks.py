"""Attention sinks of a probe, turned to where a window begins.

B rows, g key heads, D head width.
"""

import torch

from eagle_hf.decoding.caches.drafter import DraftCache
from eagle_hf.decoding.forward import DraftForward
from eagle_hf.decoding.probing.text import Text
from eagle_hf.decoding.window import SlotMap, Window
from eagle_hf.target import execution_device, text_decoder

WINDOW = Window(sinks=3, width=5)
LENGTHS = (12, 10)  # tokens of the rows: their windows have rolled on by 4 and by 2


def turned_and_read_keys(model) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The sinks' keys [B, g, sinks, D] of every layer, in two ways that must agree.

    Returns:
        By layer: those that decoding turns to stand right before the window, and those that the
        model itself writes when it reads the sinks there.
    """
    counts = torch.tensor(LENGTHS, device=execution_device(model))
    tokens = Text.random(model.config, execution_device(model)).prompts.flip(1)[:, : max(LENGTHS)]
    slots = SlotMap(WINDOW, most_new=4)
    kept = slots.start(counts)
    everywhere = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    turned = _read(model, tokens, everywhere, kept)
    turned.turn_sinks(slots, text_decoder(model).rotary_emb)
    assert slots.shift is not None, "the windows have rolled on"
    first = everywhere[:, : WINDOW.sinks]
    read = _read(model, tokens[:, : WINDOW.sinks], first + slots.shift[:, None], first)
    keys = []
    for layer, other in zip(turned.layers, read.layers, strict=True):
        keys.append((layer.keys[:, :, : WINDOW.sinks], other.keys))
    return keys


def _read(model, tokens, positions, kept) -> DraftCache:
    """A cache of what tokens [B, n] at `positions` write, of which the numbers `kept` stay."""
    cache = DraftCache()
    forward = DraftForward(model, cache)
    forward.read_prompt(tokens, positions, kept)
    return cache
