"""Which device a process has, and which dtype that device computes fastest in.

A CPU without bfloat16 arithmetic emulates it. One token at a time still gains from bfloat16,
because half as many bytes are read. Trees, batches, prompts and training lose. So the answer
depends on the work, and such CPUs are measured.
"""

import os
import statistics
import textwrap
import time
from functools import cache
from pathlib import Path

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
CHOICES = ("auto", *DTYPES)  # of a command's --dtype
WORKS = ("draft", "batch", "prefill", "train")
WEIGHT_SHAPE = (8192, 2048)  # of the timed product: 67 MB in float32, more than a cache holds
ROWS = {"batch": 32, "prefill": 256}  # tokens that such work multiplies at once
TREE = 8  # tokens of a typical draft tree
TREE_TAU = 2.2  # tokens that a round with such a tree emits: the reference head's, with 8 nodes
HEAD_SHARE = 0.25  # cost of its draft forwards, as a share of the target's forward of the tree
REPEATS = 7
ONEDNN_BELOW_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")


def default_device() -> torch.device:
    """Return the best device of this machine.

    Returns:
        CUDA where there is a GPU, else Apple's, else another accelerator that torch knows, else
        the CPU.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def cpu_features() -> tuple[str, ...]:
    """List the features of the CPU that decide its speed, as far as torch may use them.

    Two environment variables imitate a lesser CPU and count here: ATEN_CPU_CAPABILITY for torch's
    own kernels, ONEDNN_MAX_CPU_ISA for its matrix products. MKL's float32 products know neither
    and stay as they are.

    Returns:
        torch's CPU capability, as "avx512", and those of "avx512_bf16", "amx_bf16" and "arm_bf16"
        that the CPU has.
    """
    found = [torch.backends.cpu.get_cpu_capability().lower()]
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ONEDNN_BELOW_BF16:
        return tuple(found)
    if torch.cpu._is_avx512_bf16_supported():
        found.append("avx512_bf16")
    if torch.cpu._is_amx_tile_supported():
        found.append("amx_bf16")
    if _arm_has_bf16():
        found.append("arm_bf16")
    return tuple(found)


def _arm_has_bf16() -> bool:
    """Whether an ARM CPU says so itself; on Linux it does in /proc/cpuinfo."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return False
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("Features"):
            return "bf16" in line.split()
    return False


def has_native_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether a device computes in bfloat16 without emulating it.

    Args:
        device: A device or its name.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and any(name.endswith("_bf16") for name in cpu_features())


def choose_dtype(device: torch.device | str, work: str = "draft") -> torch.dtype:
    """Return the dtype that a device does some work fastest in.

    Args:
        device: Where the model will be.
        work: "draft" (one text, with or without a draft tree), "batch" (many texts, a token each),
            "prefill" (reading prompts) or "train" (autocast; bfloat16 only where it is native).

    Raises:
        ValueError: There is no such work.
    """
    if work not in WORKS:
        raise ValueError(f"work is {work!r}; choose one of {', '.join(WORKS)}")
    kind = torch.device(device).type
    if has_native_bf16(device):
        return torch.bfloat16
    if kind == "cuda":
        return torch.float16
    if kind == "mps" and work != "train":
        return torch.float16
    if kind != "cpu" or work == "train":
        return torch.float32
    in_float32 = _seconds_per_token(torch.float32, work)
    in_bf16 = _seconds_per_token(torch.bfloat16, work)
    return torch.bfloat16 if in_bf16 < in_float32 else torch.float32


def _seconds_per_token(dtype: torch.dtype, work: str) -> float:
    """Seconds of the timed product on this CPU, per token where texts are drafted."""
    if work in ROWS:
        return product_seconds(dtype, ROWS[work])
    # drafting takes the faster of plain decoding and trees
    plain = product_seconds(dtype, 1)
    tree = product_seconds(dtype, TREE) * (1 + HEAD_SHARE) / TREE_TAU
    return min(plain, tree)


@cache
def product_seconds(dtype: torch.dtype, rows: int, device: str = "cpu") -> float:
    """Time tokens times a weight matrix of 8192 x 2048, once in a process.

    Args:
        dtype: What to compute in.
        rows: How many tokens.
        device: Where to compute.

    Returns:
        Median seconds.
    """
    own = torch.Generator().manual_seed(0)  # leaves the caller's random numbers alone
    weight = torch.randn(WEIGHT_SHAPE, generator=own).to(device, dtype)
    tokens = torch.randn(rows, WEIGHT_SHAPE[1], generator=own).to(device, dtype)
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        float(torch.nn.functional.linear(tokens, weight).sum())  # a number: a GPU has finished then
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])  # the first one warms up


def resolve_dtype(
    name: str | torch.dtype, device: torch.device | str, work: str = "draft"
) -> torch.dtype:
    """Return the dtype that a user asked for.

    Args:
        name: "auto" (see `choose_dtype`) or one of DTYPES, which is obeyed, with one line on the
            logger that says what it costs here. A torch.dtype is obeyed silently.
        device: As in `choose_dtype`.
        work: As in `choose_dtype`.

    Raises:
        ValueError: There is no such name, or the device cannot compute in this dtype.
    """
    if name == "auto":
        return choose_dtype(device, work)
    dtype = DTYPES.get(name, name) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype is {name!r}; choose one of {', '.join(CHOICES)}")
    _check_ability(dtype, device)
    if isinstance(name, str):
        _say_cost(dtype, str(device), work)
    return dtype


def _check_ability(dtype: torch.dtype, device: torch.device | str) -> None:
    """Raise a ValueError where a device does not multiply in a dtype."""
    try:
        square = torch.ones(2, 2, device=device, dtype=dtype)
        square @ square
    except (RuntimeError, TypeError, AssertionError) as error:
        # AssertionError: torch was built without the device
        reason = textwrap.shorten(str(error), 120)
        raise ValueError(
            f"dtype is {_name(dtype)}, in which {device} does not compute ({reason}); "
            "take auto, or float32"
        ) from error


@cache
def _say_cost(dtype: torch.dtype, device: str, work: str) -> None:
    """One line, once: what an explicit dtype costs beside the one that would have been chosen."""
    best = choose_dtype(device, work)
    if dtype == best:
        return
    one = product_seconds(dtype, 1, device) / product_seconds(best, 1, device)
    tree = product_seconds(dtype, TREE, device) / product_seconds(best, TREE, device)
    logger.warning(
        f"{_name(dtype)} as asked for: on this {device} the products of one token cost {one:.1f} "
        f"times and those of {TREE} tokens {tree:.1f} times what they cost in {_name(best)}, "
        "which auto takes here"
    )


def _name(dtype: torch.dtype) -> str:
    """As "bfloat16"."""
    return str(dtype).removeprefix("torch.")
