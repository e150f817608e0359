"""The simulated cost of one forward: its bytes, its multiplications, and its memory.

`eagle_hf.planning.roofline` gives the formula, its symbols, and how far to trust it.
"""

from dataclasses import dataclass

from eagle_hf.planning.machines import BYTES, Efficiency, Machine, ModelShape

# Figures from here on are printed without digits behind the point.
WITHOUT_DIGITS = 1000


@dataclass(frozen=True)
class Simulated:
    """A simulated figure. Its text always says so.

    Args:
        value: The figure.
        unit: Its unit, as it stands behind the figure: "x" or " tokens".
        basis: What it was simulated from.
    """

    value: float
    unit: str
    basis: str

    def __str__(self) -> str:
        digits = 0 if self.value >= WITHOUT_DIGITS else 2
        return f"{self.value:,.{digits}f}{self.unit} (simulated: {self.basis})"


@dataclass(frozen=True)
class Setting:
    """What is served, and on what.

    Args:
        target: The target.
        machine: The kind of GPU.
        batch: The number of sequences.
        length: The cached tokens of each sequence.
        gpus: The number of GPUs, tensor-parallel.

    Raises:
        ValueError: If a count is below 1.
    """

    target: ModelShape
    machine: Machine
    batch: int
    length: int
    gpus: int = 1

    def __post_init__(self) -> None:
        if min(self.batch, self.length, self.gpus) < 1:
            raise ValueError(
                f"batch {self.batch}, length {self.length} and gpus {self.gpus} arrived; "
                "each is a count of at least 1"
            )

    def __str__(self) -> str:
        return (
            f"{self.target.name} on {self.gpus} {self.machine.name}, "
            f"batch {self.batch}, length {self.length}"
        )


def held_bytes(shape: ModelShape, batch: int, length: int, gpus: int) -> float:
    """Compute the memory that a model takes on each GPU.

    Args:
        shape: The model.
        batch: The number of sequences.
        length: The cached tokens of each sequence.
        gpus: The number of GPUs, tensor-parallel.

    Returns:
        The bytes of each GPU's part of weights and KV cache.
    """
    return shape.parameter_bytes / gpus + _cache_bytes(shape, batch, length, gpus)


def require_memory(needed: float, machine: Machine, what: str) -> None:
    """Check that a GPU's memory is large enough.

    Args:
        needed: Bytes needed per GPU.
        machine: The kind of GPU.
        what: What needs them, for the error.

    Raises:
        ValueError: If the GPU has less.
    """
    if needed > machine.memory_bytes:
        raise ValueError(
            f"{what} needs {needed / 1e9:.1f} GB per GPU for weights and KV cache, and each "
            f"{machine.name} has {machine.memory_bytes / 1e9:.0f} GB; lower batch or length, "
            "or use more GPUs"
        )


@dataclass(frozen=True)
class ForwardParts:
    """Where the seconds of one forward go, simulated.

    Attributes:
        reading_weights, multiplying_weights: projections, MLPs and LM head. Both go on at once, so
            the larger one counts.
        reading_cache, multiplying_cache: attention, likewise.
        layers: what every layer costs besides: kernel starts and all-reduces.
    """

    reading_weights: float
    multiplying_weights: float
    reading_cache: float
    multiplying_cache: float
    layers: float

    @property
    def seconds(self) -> float:
        """Of the whole forward."""
        weights = max(self.reading_weights, self.multiplying_weights)
        cache = max(self.reading_cache, self.multiplying_cache)
        return self.layers + weights + cache


def forward_parts(
    shape: ModelShape,
    machine: Machine,
    efficiency: Efficiency,
    batch: int,
    length: int,
    tokens: float,
    gpus: int = 1,
) -> ForwardParts:
    """Simulate one forward, part by part.

    Args:
        shape: The model.
        machine: The kind of GPU.
        efficiency: What software gets out of it.
        batch: The number of sequences.
        length: The cached tokens of each sequence.
        tokens: The new tokens of each sequence.
        gpus: The number of GPUs, tensor-parallel.

    Returns:
        The parts.

    Raises:
        ValueError: If weights and KV cache do not fit into the memory.
    """
    require_memory(
        held_bytes(shape, batch, length, gpus),
        machine,
        f"{shape.name} at batch {batch}, length {length}",
    )
    bandwidth = machine.bandwidth * efficiency.memory
    flops = machine.flops * efficiency.compute * gpus
    query_size = shape.heads * shape.head_dim
    return ForwardParts(
        # 1) Projections, MLPs and LM head: their weights are read once for all tokens.
        reading_weights=BYTES * shape.matrix_parameters / gpus / bandwidth,
        multiplying_weights=2 * shape.matrix_parameters * batch * tokens / flops,
        # 2) Attention: the cache is read once, however many tokens ask.
        reading_cache=_cache_bytes(shape, batch, length, gpus) / bandwidth,
        multiplying_cache=4 * shape.layers * query_size * batch * tokens * length / flops,
        layers=shape.layers * efficiency.layer_seconds,
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
    """Simulate the seconds of one forward.

    Args:
        shape, machine, efficiency, batch, length, tokens, gpus: As in `forward_parts`.

    Returns:
        Seconds, simulated.

    Raises:
        ValueError: If weights and KV cache do not fit into the memory.
    """
    return forward_parts(shape, machine, efficiency, batch, length, tokens, gpus).seconds


def balance(machine: Machine, efficiency: Efficiency) -> float:
    """The operations per byte at which memory and arithmetic take equally long.

    What does fewer operations with a byte that it reads is limited by memory, what does more by
    arithmetic.

    Args:
        machine: The kind of GPU.
        efficiency: What software gets out of it.

    Returns:
        Operations per byte.
    """
    return machine.flops * efficiency.compute / (machine.bandwidth * efficiency.memory)


def _cache_bytes(shape: ModelShape, batch: int, length: int, gpus: int) -> float:
    """Compute the bytes of each GPU's part of the KV cache."""
    # A KV head is not split. GPUs beyond their number hold copies.
    parts = min(gpus, shape.kv_heads)
    return batch * length * shape.kv_bytes_per_token / parts
