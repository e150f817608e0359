"""Roofline: what speculation would gain with models and on machines not at hand. Every figure here is simulated.

A forward is a series of operations, one after the other. Each is limited by the bytes it reads or by its
multiplications, whichever takes longer; kernel starts and all-reduces come on top, layer by layer:

    seconds = L * layer_seconds + max(2 P / W, 2 P B t / F) + max(K B S / W, 4 A L B t S / F)

B rows, S cached tokens of a row, t new tokens of a row; L layers, P parameters every token is multiplied with (matrices
and LM head), K KV bytes per token, A heads * head_dim; W bytes/s and F FLOP/s of all GPUs, each times its `Efficiency`.
Weights and caches are bf16. The first maximum is the projections, whose weights are read once for all rows; the second
is attention, which reads a row's cache once, however many tokens ask. So verification is nearly free where the cache
dominates, and a draft that reads a window gets relatively cheaper with batch and length (MagicDec, arXiv 2408.11049).

A speedup is a ratio of times, so a factor common to all of them cancels: speedups determine two of an `Efficiency`'s
three numbers. `memory` is given and scales the seconds; the pair (compute, layer_seconds) is what `fit_efficiency` fits.
Fitted on two cells each, against MagicDec's measurements (all in tests/planning/test_roofline.py):

    8 A100, table 3, chains of 2:           45 other cells, at most 10.1 % off, 3.6 % on average
    8 A100, the best chain lengths:         12 other cells, at most 10.5 % off, 5.7 % on average, nearly all too low
    8 and 4 H100, tables 6 and 1:           5 other cells, at most 2.9 % off; with the A100 pair all 7 are 10 to 16 % too low

Where it is wrong, by their own stopwatch: one more token to verify took 23 microseconds, one more row to draft for 55
(Llama-3.1-8B), and one compute efficiency prices both alike; so long chains come out too slow, their best length one
token short, and Llama-3.1-8B at 4000 tokens loses 1 % between batch 32 and 256 where 16 % were measured. A round's 1.3
to 2.7 ms outside the forwards are in no term and end up in `layer_seconds`. A pair belongs to a machine, its number of
GPUs and its software, and was seen at 16 to 768 tokens per forward: measure where you can.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy

BYTES = 2  # of a bf16 number


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder with gated MLPs. tied: its embeddings are its LM head; extra: matrix parameters beyond a decoder's."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = False
    extra: int = 0

    @property
    def matrix_parameters(self) -> int:
        """Parameters every token is multiplied with: projections, MLPs and LM head."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return (
            self.layers * (attention + 3 * self.hidden * self.intermediate)
            + self.hidden * self.vocab
            + self.extra
        )

    @property
    def parameters(self) -> int:
        """All parameters, the norms of queries and keys (Qwen3: 256 a layer) left out."""
        return (
            self.matrix_parameters
            + (0 if self.tied else self.hidden * self.vocab)
            + self.hidden * (2 * self.layers + 1)
        )

    @property
    def parameter_bytes(self) -> int:
        return BYTES * self.parameters

    @property
    def kv_bytes_per_token(self) -> int:
        return BYTES * 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Machine:
    """One GPU's data sheet: dense bf16 FLOP/s (without sparsity), bytes/s and bytes of its memory."""

    name: str
    flops: float
    bandwidth: float
    memory_bytes: float


@dataclass(frozen=True)
class Efficiency:
    """What software gets out of a machine: fractions of peak bandwidth and FLOP/s, and seconds per layer beside both."""

    memory: float
    compute: float
    layer_seconds: float

    def __post_init__(self):
        if not (0 < self.memory <= 1 and 0 < self.compute <= 1 and self.layer_seconds >= 0):
            raise ValueError(
                f"{self} arrived; memory and compute are fractions of peak, in (0, 1], and layer_seconds is not negative"
            )


SHAPES = {
    shape.name: shape
    for shape in (  # from each model's config.json on the Hugging Face Hub
        ModelShape("TinyLlama-1.1B", 22, 2048, 32, 4, 64, 5632, 32000),
        ModelShape("Llama-2-7B-32K", 32, 4096, 32, 32, 128, 11008, 32000),
        ModelShape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256),
        ModelShape("Llama-3.1-70B", 80, 8192, 64, 8, 128, 28672, 128256),
        ModelShape("Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151936, tied=True),
        ModelShape("Qwen3-1.7B", 28, 2048, 16, 8, 128, 6144, 151936, tied=True),
        ModelShape("Qwen3-4B", 36, 2560, 32, 8, 128, 9728, 151936, tied=True),
        ModelShape("Qwen3-8B", 36, 4096, 32, 8, 128, 12288, 151936),
        ModelShape("Qwen3-14B", 40, 5120, 40, 8, 128, 17408, 151936),
        ModelShape("Qwen3-32B", 64, 5120, 64, 8, 128, 25600, 151936),
    )
}

# SXM boards (the A100 with 80 GB), NVIDIA's data sheets; for H100 and H200 they print 1,979 TFLOP/s, which counts sparsity.
MACHINES = {
    machine.name: machine
    for machine in (
        Machine("A100", 312e12, 2.039e12, 80e9),
        Machine("H100", 989.5e12, 3.35e12, 80e9),
        Machine("H200", 989.5e12, 4.8e12, 141e9),
    )
}

# fit_efficiency on Llama-3.1-8B self-speculation on 8 GPUs, two cells (batch, length) of MagicDec each: A100 (256, 8000)
# and (32, 64000) of table 3, which determine the pair best; H100 (16, 32000) and (128, 32000) of table 6, the extremes. With
# memory 0.9 the forwards of table 3 take the published milliseconds, median within 3 %, each within 21 %. On fewer GPUs
# matrices are larger and run nearer to peak: there these pairs make large batches too slow.
MAGICDEC_A100 = Efficiency(memory=0.9, compute=0.180, layer_seconds=203e-6)
MAGICDEC_H100 = Efficiency(memory=0.9, compute=0.226, layer_seconds=119e-6)


@dataclass(frozen=True)
class Simulated:
    """A modelled figure; its text never goes without the word."""

    value: float
    unit: str
    basis: str

    def __str__(self) -> str:
        return (
            f"{self.value:,.{0 if self.value >= 1000 else 2}f}{self.unit} (simulated: {self.basis})"
        )


@dataclass(frozen=True)
class Setting:
    """What is served: a target on `gpus` GPUs, tensor-parallel, `batch` rows with `length` cached tokens each."""

    target: ModelShape
    machine: Machine
    batch: int
    length: int
    gpus: int = 1

    def __post_init__(self):
        if min(self.batch, self.length, self.gpus) < 1:
            raise ValueError(
                f"batch {self.batch}, length {self.length} and gpus {self.gpus} arrived; each is a count of at least 1"
            )

    def __str__(self) -> str:
        return f"{self.target.name} on {self.gpus} {self.machine.name}, batch {self.batch}, length {self.length}"


def held_bytes(shape: ModelShape, batch: int, length: int, gpus: int) -> float:
    """Bytes on each GPU: its share of weights and cache. KV heads are not split: GPUs beyond their number hold copies."""
    return shape.parameter_bytes / gpus + batch * length * shape.kv_bytes_per_token / min(
        gpus, shape.kv_heads
    )


def require_memory(needed: float, machine: Machine, what: str) -> None:
    """ValueError where `needed` bytes per GPU are more than it has."""
    if needed > machine.memory_bytes:
        raise ValueError(
            f"{what} needs {needed / 1e9:.1f} GB per GPU for weights and KV cache, and each {machine.name} has "
            f"{machine.memory_bytes / 1e9:.0f} GB; lower batch or length, or use more GPUs"
        )


def forward_seconds(
    shape: ModelShape,
    machine: Machine,
    efficiency: Efficiency,
    batch: int,
    length: int,
    tokens: float,
    gpus: int = 1,
) -> float:
    """Seconds of one forward of `tokens` new tokens per row, with `length` cached ones (module docstring; simulated)."""
    require_memory(
        held_bytes(shape, batch, length, gpus),
        machine,
        f"{shape.name} at batch {batch}, length {length}",
    )
    bandwidth, flops = (
        machine.bandwidth * efficiency.memory,
        machine.flops * efficiency.compute * gpus,
    )
    weights = BYTES * shape.matrix_parameters / gpus / bandwidth
    projections = 2 * shape.matrix_parameters * batch * tokens / flops
    cache = batch * length * shape.kv_bytes_per_token / min(gpus, shape.kv_heads) / bandwidth
    attention = 4 * shape.layers * shape.heads * shape.head_dim * batch * tokens * length / flops
    return (
        shape.layers * efficiency.layer_seconds + max(weights, projections) + max(cache, attention)
    )


def chain_tokens(alpha: float, gamma: int) -> float:
    """Expected tokens of a round, bonus included: (1 - alpha^(gamma + 1)) / (1 - alpha), arXiv 2211.17192."""
    if not 0 <= alpha <= 1 or gamma < 0:
        raise ValueError(
            f"alpha {alpha} and gamma {gamma} arrived; alpha is a probability, gamma a number of drafts"
        )
    return float(sum(alpha**k for k in range(gamma + 1)))


def speedup(
    setting: Setting,
    efficiency: Efficiency,
    tau: float,
    draft_seconds: float,
    draft_bytes: float,
    verified: int,
    what: str,
) -> Simulated:
    """Against plain decoding: rounds of `tau` tokens, `verified` tokens read; drafting holds draft_bytes on each GPU."""
    held = held_bytes(setting.target, setting.batch, setting.length, setting.gpus) + draft_bytes
    require_memory(held, setting.machine, f"{setting}, with its drafter,")
    at = (setting.target, setting.machine, efficiency, setting.batch, setting.length)
    plain, verify = (forward_seconds(*at, tokens, setting.gpus) for tokens in (1, verified))
    times = f"{tau:.2f} tokens for {draft_seconds * 1e3:.1f} + {verify * 1e3:.1f} ms, a plain step {plain * 1e3:.1f} ms"
    return Simulated(tau * plain / (draft_seconds + verify), "x", f"{setting}, {what}; {times}")


def self_speculation(
    setting: Setting, efficiency: Efficiency, gamma: int, alpha: float, window: int
) -> Simulated:
    """The target drafts `gamma` tokens from a cache of `window` tokens, a copy beside its own (MagicDec)."""
    return draft_model(setting, efficiency, setting.target, gamma, alpha, window)


def draft_model(
    setting: Setting,
    efficiency: Efficiency,
    draft: ModelShape,
    gamma: int,
    alpha: float,
    window: int,
    draft_gpus: int | None = None,
) -> Simulated:
    """A model drafts `gamma` tokens, one forward each, on `draft_gpus` of the GPUs; a window >= length is the whole cache."""
    window, gpus, itself = (
        min(window, setting.length),
        draft_gpus or setting.gpus,
        draft == setting.target,
    )
    one = forward_seconds(draft, setting.machine, efficiency, setting.batch, window, 1, gpus)
    held = held_bytes(draft, setting.batch, window, gpus) - (
        draft.parameter_bytes / gpus if itself else 0
    )
    what = f"{'self-speculation' if itself else draft.name} with window {window}, chain of {gamma} at alpha {alpha:.2f}"
    return speedup(
        setting, efficiency, chain_tokens(alpha, gamma), gamma * one, held, gamma + 1, what
    )


def eagle_shape(target: ModelShape, draft_vocab: int) -> ModelShape:
    """An EAGLE-3 head: one of the target's layers whose Q, K and V read two states, fc of three states, its own LM head."""
    doubled = target.hidden * (target.heads + 2 * target.kv_heads) * target.head_dim
    sizes = (
        target.hidden,
        target.heads,
        target.kv_heads,
        target.head_dim,
        target.intermediate,
        draft_vocab,
    )
    return ModelShape(
        f"EAGLE-3 head of {target.name}", 1, *sizes, tied=True, extra=doubled + 3 * target.hidden**2
    )


def eagle_head(
    setting: Setting,
    efficiency: Efficiency,
    tau: float,
    nodes: int,
    depth: int,
    top_k: int,
    draft_vocab: int,
    window: int | None = None,
) -> Simulated:
    """A head drafts a tree of `nodes` nodes, the root not counted, in `depth` levels of `top_k` expanded nodes each.

    tau is measured, or expected (planning.sequoia). The first level reads the round's new tokens. Choosing nodes is free.
    """
    head, cached = (
        eagle_shape(setting.target, draft_vocab),
        min(window or setting.length, setting.length),
    )
    at = (head, setting.machine, efficiency, setting.batch, cached)
    seconds = sum(
        forward_seconds(*at, read, setting.gpus) for read in [tau] + [top_k] * (depth - 1)
    )
    held = held_bytes(head, setting.batch, cached, setting.gpus)
    return speedup(
        setting,
        efficiency,
        tau,
        seconds,
        held,
        nodes + 1,
        f"EAGLE-3 tree of {nodes} nodes, depth {depth}",
    )


def critical_tokens(setting: Setting, efficiency: Efficiency) -> float:
    """n*, simulated: the cached tokens that are read in the time of one token's projections, (2 P / K) (W / F)."""
    target, machine = setting.target, setting.machine
    rate = machine.bandwidth * efficiency.memory / (machine.flops * efficiency.compute)
    return 2 * target.matrix_parameters / target.kv_bytes_per_token * rate


def large_batch_ceiling(
    setting: Setting, efficiency: Efficiency, gamma: int, alpha: float, window: int
) -> Simulated:
    """What self-speculation approaches as the batch grows; the setting's batch and capacity do not matter.

    T (n* + n) / (gamma (n* + w) + (gamma + 1) n* + n), T tokens a round, n the length: FLOP/s limit projections,
    bandwidth limits attention, layer_seconds vanish. It follows from MagicDec, section 3.
    """
    critical, length = critical_tokens(setting, efficiency), setting.length
    cost = gamma * (critical + window) + (gamma + 1) * critical + length
    basis = f"{setting.target.name} on {setting.machine.name}, large batches at length {length}, window {window}, chain of {gamma}"
    return Simulated(
        chain_tokens(alpha, gamma) * (critical + length) / cost,
        "x",
        f"{basis} at alpha {alpha:.2f}",
    )


def large_batch_break_even(
    setting: Setting, efficiency: Efficiency, gamma: int, alpha: float, window: int
) -> Simulated:
    """The length from which `large_batch_ceiling` exceeds 1: ((2 gamma + 1 - T) n* + gamma w) / (T - 1)."""
    tau = chain_tokens(alpha, gamma)
    if tau <= 1:
        raise ValueError(
            f"alpha {alpha} and gamma {gamma} arrived; without accepted drafts no length breaks even, so raise them above 0"
        )
    length = ((2 * gamma + 1 - tau) * critical_tokens(setting, efficiency) + gamma * window) / (
        tau - 1
    )
    basis = f"{setting.target.name} on {setting.machine.name}, break-even of large batches, window {window}, chain of {gamma}"
    return Simulated(length, " tokens", f"{basis} at alpha {alpha:.2f}")


def break_even_length(predict: Callable[[int], Simulated], limit: int) -> Simulated:
    """The shortest length up to `limit` at which `predict(length)`, rising with the length, is 1 or more; by bisection."""
    if (last := predict(limit)).value < 1:
        raise ValueError(
            f"no length up to {limit} breaks even: {last}; raise the limit, or shorten the chain"
        )
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if predict(middle).value >= 1 else (middle, high)
    return Simulated(high, " tokens", f"break-even; {predict(high).basis}")


def fit_efficiency(
    cells: Sequence[tuple[Callable[[Efficiency], Simulated], float]], memory: float = 0.9
) -> Efficiency:
    """The pair (compute, layer_seconds) that explains measured speedups best: least squared logarithms, compass search.

    cells: pairs of a prediction, as a function of the efficiency, and the speedup measured there. Two are enough if
    multiplications rule one (large batch) and the layers' seconds the other (small batch, long enough to gain).
    """

    def misses(compute, seconds):
        return numpy.log(
            [
                predict(Efficiency(memory, compute, seconds)).value / measured
                for predict, measured in cells
            ]
        )

    best, step = (0.2, 1e-4), 4.0
    while step > 1.0002 and best[1] > 1e-9:
        near = [
            (min(best[0] * step**i, 1.0), best[1] * step**j)
            for i, j in product((0, -1, 1), repeat=2)
        ]
        winner = min(near, key=lambda pair: (misses(*pair) ** 2).sum())
        best, step = winner, step if winner != best else step**0.5
    slopes = [
        misses(best[0] * factor, best[1] * other) - misses(*best)
        for factor, other in ((0.9, 1.0), (1.0, 0.9))
    ]
    if len(cells) < 2 or numpy.linalg.svd(slopes, compute_uv=False)[-1] < 1e-3:
        raise ValueError(
            f"{len(cells)} cell(s) arrived that do not tell compute (found {best[0]:.3g}) and layer_seconds (found {best[1]:.3g}) "
            "apart, or no pair explains them; add cells at other batch sizes and lengths, or check acceptance and window"
        )
    return Efficiency(memory, *best)
