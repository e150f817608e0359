"""What computes: versions, the card, its clocks, and how fast it copies."""

import platform
import shutil
import subprocess

import torch
import transformers

from eagle_hf.measuring import timed

CLOCKS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "driver_version")


def versions(device: torch.device) -> dict:
    """What stands in front of every stage's records; null is what there is not."""
    is_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "card": torch.cuda.get_device_name(device) if is_gpu else None,
    }


def machine_facts(device: torch.device) -> dict:
    """Versions, memory, clocks and the speed of copies."""
    memory = None
    if device.type == "cuda":
        memory = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    copied = round(copy_rate(device) / 1e9, 1)
    return versions(device) | {"memory_GiB": memory, "copy_GB_s": copied} | clocks(device)


def clocks(device: torch.device) -> dict:
    """What nvidia-smi says of the card; null where there is none."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return dict.fromkeys(CLOCKS)
    query = f"--query-gpu={','.join(CLOCKS)}"
    command = ["nvidia-smi", query, "--format=csv,noheader", f"--id={device.index or 0}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    values = [value.strip() for value in done.stdout.split(",")]
    if done.returncode or len(values) != len(CLOCKS):
        return dict.fromkeys(CLOCKS)
    return dict(zip(CLOCKS, values, strict=True))


def copy_rate(device: torch.device) -> float:
    """Bytes that a copy reads and writes in a second, best of five."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    copy()
    seconds = min(timed(copy, device) for _ in range(5))
    return 2 * source.numel() * source.element_size() / seconds
