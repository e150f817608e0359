"""What a GPU is for this package: every CUDA path run, and speeds at real sizes.

Stages in the order of their worth, each with its own time. A record is written as soon as it is
measured, so that a run that is cut off leaves what it had. It needs torch, transformers, accelerate
and peft alone.

Hardware: one CUDA GPU; with --rehearse a CPU, at toy size.
Duration: at most the sum of the stages' seconds.
Command:  python recipes/gpu/prove.py --output_dir outputs/gpu
          python recipes/gpu/prove.py --rehearse --output_dir outputs/rehearsal
Expected: OUTPUT/records.jsonl, a line a record, and the same lines on the screen.
"""

import argparse
import json
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from models import SHAPES
from smoke import smoke
from speed import CHAIN, TREE, Cell, speed

from eagle_hf.measuring import timed


class TimeUp(Exception):
    """A stage's seconds are over."""


def versions(device: torch.device) -> Iterator[dict]:
    """What computes, and how fast it copies."""
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["card"] = properties.name
        facts["memory_gib"] = round(properties.total_memory / 2**30, 1)
    source = torch.ones(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(timed(lambda: target.copy_(source), device) for _ in range(5))
    yield facts | {"copy_GB_s": 2 * source.numel() * 4 / seconds / 1e9}


def stages(device: torch.device, rehearse: bool) -> list[tuple[str, float, Callable]]:
    """(name, seconds, function) of every stage."""
    if rehearse:
        toy = [Cell(1, 32), Cell(2, 32)]
        return [
            ("versions", 20, lambda: versions(device)),
            ("smoke", 240, lambda: smoke(device)),
            ("speed toy", 120, lambda: speed("toy", SHAPES["toy"], toy, [CHAIN, TREE], device, 1)),
        ]
    small = [Cell(1, 256), Cell(8, 256)]
    large = [Cell(1, 256), Cell(32, 256), Cell(1, 4096)]
    return [
        ("versions", 20, lambda: versions(device)),
        ("speed 1B", 120, lambda: speed("1B", SHAPES["1B"], small, [CHAIN, TREE], device)),
        ("speed 8B", 130, lambda: speed("8B", SHAPES["8B"], large, [CHAIN], device)),
        ("smoke", 130, lambda: smoke(device)),
    ]


def alarm(signum: int, frame: object) -> None:
    """End the stage that runs."""
    raise TimeUp


def run_stages(device: torch.device, rehearse: bool, folder: Path, only: list[str]) -> None:
    """Run every stage until it ends or its time is over."""
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGALRM, alarm)
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for name, seconds, function in stages(device, rehearse):
            if only and name not in only:
                continue
            started = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                for record in function():
                    write(file, {"stage": name} | record)
                end = {"ended": "done"}
            except TimeUp:
                end = {"ended": "time over"}
            except Exception:
                end = {"ended": "failed", "error": traceback.format_exc()[-3000:]}
            signal.setitimer(signal.ITIMER_REAL, 0)
            write(file, {"stage": name, "seconds": time.perf_counter() - started} | end)


def write(file, record: dict) -> None:
    """A line on the screen and on the disk."""
    line = json.dumps(record)
    print(line, flush=True)
    file.write(line + "\n")
    file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--rehearse", action="store_true", help="On the CPU, at toy size.")
    parser.add_argument("--stages", nargs="*", default=[], help="Only these.")
    arguments = parser.parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no CUDA GPU; --rehearse runs every stage on the CPU at toy size")
    device = torch.device("cpu" if arguments.rehearse else "cuda:0")
    run_stages(device, arguments.rehearse, arguments.output_dir, arguments.stages)


if __name__ == "__main__":
    main()
