"""Roofline: what speculation would gain with models and on machines not at hand.

Every figure here is simulated. A forward is a series of operations, one after the other. Each is
limited by the bytes it reads or by its multiplications, whichever takes longer. Kernel starts and
all-reduces come on top, layer by layer:

    seconds = L * layer_seconds + max(2 P / W, 2 P B t / F) + max(K B S / W, 4 A L B t S / F)

    B  sequences                         P  parameters every token is multiplied with
    S  cached tokens of a sequence       K  KV bytes per token
    t  new tokens of a sequence          A  heads * head_dim
    L  layers                            W  bytes/s, F FLOP/s: of all GPUs, times their `Efficiency`

P counts matrices and LM head. Weights and caches are bf16. The first maximum is the projections,
whose weights are read once for all sequences. The second is attention, which reads a sequence's
cache once, however many tokens ask. So verification is nearly free where the cache dominates, and a
draft that reads a window gets relatively cheaper with batch and length (MagicDec, arXiv
2408.11049).

A speedup is a ratio of times, so a factor common to all of them cancels: speedups determine two of
an `Efficiency`'s three numbers. `memory` is given and scales the seconds; `fit_efficiency` fits the
pair (compute, layer_seconds). Fitted on two cells each, these are the errors against MagicDec's
measurements (all in tests/planning/test_roofline.py):

    8 A100, table 3, chains of 2      45 other cells, at most 10.1 % off, 3.6 % on average
    8 A100, the best chain lengths    12 other cells, at most 10.5 % off, 5.7 % on average, nearly
                                      all too low
    8 and 4 H100, tables 6 and 1      5 other cells, at most 2.9 % off; with the A100 pair all 7 are
                                      10 to 16 % too low

Where it is wrong, by MagicDec's own measurements (Llama-3.1-8B): one more token to verify took 23
microseconds, one more sequence to draft for 55. One compute efficiency prices both alike. So long
chains come out too slow, and their best length one token too short. Llama-3.1-8B at 4000 tokens
loses 1 % between batch 32 and 256 where 16 % were measured. The 1.3 to 2.7 ms of a round outside
the forwards are in no term and end up in `layer_seconds`.

A pair belongs to a machine, its number of GPUs and its software. It was tested at 16 to 768 tokens
per forward. Measure where you can.

This module is the front door. The parts: `machines` (models and GPUs), `simulated` (a forward),
`speedups` (a round with each drafter), `break_even`, and `efficiency_fit`.
"""

from eagle_hf.planning.break_even import (
    break_even_length,
    critical_tokens,
    large_batch_break_even,
    large_batch_ceiling,
)
from eagle_hf.planning.efficiency_fit import fit_efficiency
from eagle_hf.planning.machines import (
    BYTES,
    MACHINES,
    MAGICDEC_A100,
    MAGICDEC_H100,
    SHAPES,
    Efficiency,
    Machine,
    ModelShape,
    machine_named,
    model_named,
)
from eagle_hf.planning.simulated import (
    ForwardParts,
    Setting,
    Simulated,
    balance,
    forward_parts,
    forward_seconds,
    held_bytes,
    require_memory,
)
from eagle_hf.planning.speedups import (
    chain_tokens,
    draft_model,
    eagle_head,
    eagle_shape,
    self_speculation,
    speedup,
)

__all__ = [
    "BYTES",
    "MACHINES",
    "MAGICDEC_A100",
    "MAGICDEC_H100",
    "SHAPES",
    "Efficiency",
    "ForwardParts",
    "Machine",
    "ModelShape",
    "Setting",
    "Simulated",
    "balance",
    "break_even_length",
    "chain_tokens",
    "critical_tokens",
    "draft_model",
    "eagle_head",
    "eagle_shape",
    "fit_efficiency",
    "forward_parts",
    "forward_seconds",
    "held_bytes",
    "large_batch_break_even",
    "large_batch_ceiling",
    "machine_named",
    "model_named",
    "require_memory",
    "self_speculation",
    "speedup",
]
