"""Models and machines by their data sheets, and what software gets out of a machine.

`model_named` and `machine_named` look up the known ones. Everything here is input to the
simulations of `eagle_hf.planning.roofline`.
"""

from dataclasses import dataclass

# Bytes of a bf16 number. Weights and KV caches are bf16 in all simulations.
BYTES = 2


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder with gated MLPs.

    Args:
        name: The model's name.
        layers: The number of decoder layers.
        hidden: The hidden size.
        heads: The number of query heads.
        kv_heads: The number of key and value heads.
        head_dim: The size of a head.
        intermediate: The hidden size of the MLPs.
        vocab: The size of the vocabulary.
        tied: Whether the embeddings are also the LM head.
        extra: Parameters of matrices that a decoder does not have, as an EAGLE-3 head's `fc`.
    """

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
        """The parameters every token is multiplied with: projections, MLPs and LM head."""
        # Q and output have all heads, K and V have the KV heads.
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        # Gate, up and down.
        mlp = 3 * self.hidden * self.intermediate
        lm_head = self.hidden * self.vocab
        return self.layers * (attention + mlp) + lm_head + self.extra

    @property
    def parameters(self) -> int:
        """All parameters, except the norms of queries and keys (in Qwen3 256 per layer)."""
        embeddings = 0 if self.tied else self.hidden * self.vocab
        # Two norms per layer, and the final one.
        norms = self.hidden * (2 * self.layers + 1)
        return self.matrix_parameters + embeddings + norms

    @property
    def parameter_bytes(self) -> int:
        """The bytes of all parameters."""
        return BYTES * self.parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """The bytes of one token's keys and values in all layers."""
        return BYTES * 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Machine:
    """The data sheet of one GPU.

    Args:
        name: The GPU's name.
        flops: Dense bf16 FLOP/s, without sparsity.
        bandwidth: Bytes per second of its memory.
        memory_bytes: Bytes of its memory.
    """

    name: str
    flops: float
    bandwidth: float
    memory_bytes: float


@dataclass(frozen=True)
class Efficiency:
    """What software gets out of a machine.

    Args:
        memory: The fraction of peak bandwidth, in (0, 1].
        compute: The fraction of peak FLOP/s, in (0, 1].
        layer_seconds: Seconds per layer besides both: kernel starts and all-reduces.

    Raises:
        ValueError: If a number is out of its range.
    """

    memory: float
    compute: float
    layer_seconds: float

    def __post_init__(self) -> None:
        are_fractions = 0 < self.memory <= 1 and 0 < self.compute <= 1
        if not (are_fractions and self.layer_seconds >= 0):
            raise ValueError(
                f"{self} arrived; memory and compute are fractions of peak, in (0, 1], "
                "and layer_seconds is not negative"
            )


# From each model's config.json on the Hugging Face Hub. The columns: name, layers, hidden, heads,
# kv_heads, head_dim, intermediate, vocab.
_KNOWN_MODELS = (
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
SHAPES = {shape.name: shape for shape in _KNOWN_MODELS}

# SXM boards (the A100 with 80 GB), from NVIDIA's data sheets. For H100 and H200 the sheets print
# 1,979 TFLOP/s, which counts sparsity.
_KNOWN_MACHINES = (
    Machine("A100", flops=312e12, bandwidth=2.039e12, memory_bytes=80e9),
    Machine("H100", flops=989.5e12, bandwidth=3.35e12, memory_bytes=80e9),
    Machine("H200", flops=989.5e12, bandwidth=4.8e12, memory_bytes=141e9),
)
MACHINES = {machine.name: machine for machine in _KNOWN_MACHINES}

# Found by `fit_efficiency` from the self-speculation of Llama-3.1-8B on 8 GPUs, from two cells
# (batch, length) of MagicDec (arXiv 2408.11049) each:
# - A100: (256, 8000) and (32, 64000) of table 3, which determine the pair best.
# - H100: (16, 32000) and (128, 32000) of table 6, the extremes.
# With memory 0.9, the forwards of table 3 take the published milliseconds: the median within 3 %,
# each within 21 %. On fewer GPUs the matrices are larger and run nearer to peak, so these pairs
# make large batches too slow there.
MAGICDEC_A100 = Efficiency(memory=0.9, compute=0.180, layer_seconds=203e-6)
MAGICDEC_H100 = Efficiency(memory=0.9, compute=0.226, layer_seconds=119e-6)


def model_named(name: str) -> ModelShape:
    """Look up a known model.

    Args:
        name: The model's name, as "Qwen3-8B".

    Returns:
        Its shape.

    Raises:
        ValueError: If no such model is known; the text lists those that are.
    """
    if name not in SHAPES:
        raise ValueError(f"no model is named {name!r}; the known ones are {', '.join(SHAPES)}")
    return SHAPES[name]


def machine_named(name: str) -> Machine:
    """Look up a known machine.

    Args:
        name: The GPU's name, as "H100".

    Returns:
        Its data sheet.

    Raises:
        ValueError: If no such machine is known; the text lists those that are.
    """
    if name not in MACHINES:
        raise ValueError(f"no machine is named {name!r}; the known ones are {', '.join(MACHINES)}")
    return MACHINES[name]
