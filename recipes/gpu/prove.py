"""Prove on a GPU what is claimed of one: every CUDA path, speeds, a head, long texts, training.

Stages in the order of their worth, a process and a share of the time each:

    a  versions and clocks; every CUDA path, its tokens compared with plain decoding's
    b  speed at the shapes of 1B and 8B, with random weights and acceptance set by hand
    e  the reference head: the target's own conversations, training, held-out acceptance
    c  long texts at 8B's shape: self-speculation (MagicDec), trees by length
    d  a training step at 8B's shape, and the capture of features

A stage that fails, hangs or ends early takes no other along; time that it leaves is the next one's.
Every result is written as soon as it is known. What was not measured is null, with the reason. It
needs torch, transformers, accelerate and peft alone; stage e also gguf, where its target is a GGUF
file.

Hardware: one CUDA GPU with 80 GB; with --rehearse a CPU, at toy size.
Duration: at most --minutes.
Command:  python recipes/gpu/prove.py --output_dir outputs/gpu
          python recipes/gpu/prove.py --rehearse --output_dir outputs/rehearsal
Expected: OUTPUT/records.jsonl, which recipes/gpu/record.py turns into a page of docs.
"""

import argparse
import contextlib
import datetime
import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from cells import Cell, Records, Setting, missing, read_records, run_cells
from facts import machine_facts, versions

RUN = "run"
ENDED = "ended"
RECORDS = "records.jsonl"
LAST_WORDS = 1500  # characters of a failed stage's log that are kept


@dataclass(frozen=True)
class Stage:
    """A part of the proof.

    Args:
        module: whose `cells(setting)` are measured.
        seconds: its share of the time; of a rehearsal in proportion.
    """

    module: str
    seconds: float


# in the order of their worth
STAGES = {
    "a": Stage("smoke", 120),
    "b": Stage("speed", 180),
    "e": Stage("reference", 440),
    "c": Stage("selfspec", 90),
    "d": Stage("training", 50),
}


def run_stage(arguments: argparse.Namespace) -> None:
    """Measure one stage in this process."""
    device = torch.device("cpu" if arguments.rehearse else "cuda:0")
    folder = arguments.output_dir / arguments.only
    folder.mkdir(parents=True, exist_ok=True)
    seconds = arguments.ends - time.time()  # importing took some
    setting = Setting(
        device, arguments.rehearse, seconds, folder, arguments.target, arguments.talks
    )
    cells = importlib.import_module(STAGES[arguments.only].module).cells(setting)
    if arguments.only == "a":
        cells = [Cell("versions, card, clocks", partial(machine_facts, device)), *cells]
    records = Records(arguments.output_dir / RECORDS, arguments.only)
    run_cells(cells, records, versions(device))


def prove(arguments: argparse.Namespace) -> None:
    """Run the stages that are asked for, each in a process of its own.

    Raises:
        ValueError: the folder holds records already.
    """
    file = arguments.output_dir / RECORDS
    if file.exists():
        raise ValueError(f"{file} exists; take another --output_dir, or move it away")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    today = datetime.date.today().isoformat()
    about = {"date": today, "minutes": arguments.minutes, "rehearsal": arguments.rehearse}
    Records(file, RUN).write(about)
    whole = sum(STAGES[name].seconds for name in arguments.stages)
    ends = time.monotonic()
    for name, stage in STAGES.items():
        if name not in arguments.stages:
            records = Records(file, name)
            records.write({ENDED: "not run", "seconds": None, "why": "not asked for"})
            continue
        ends += 60 * arguments.minutes * stage.seconds / whole
        measure(name, ends - time.monotonic(), arguments)


def measure(name: str, seconds: float, arguments: argparse.Namespace) -> None:
    """One stage within so many seconds, and nulls for what it did not reach."""
    started = time.monotonic()
    log = arguments.output_dir / f"{name}.log"
    ends = str(time.time() + seconds)
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--ends", ends]
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            code = process.wait(max(1.0, seconds))
            ended = "done" if code == 0 else f"failed with code {code}"
        except subprocess.TimeoutExpired:
            ended = "time over"
        finally:
            end(process)
    file = arguments.output_dir / RECORDS
    close_last_line(file)
    records = Records(file, name)
    for missed in missing(read_records(file), name):
        records.result(missed, None, ended)
    why = log.read_text(encoding="utf-8")[-LAST_WORDS:] if ended.startswith("failed") else None
    taken = round(time.monotonic() - started, 1)
    records.write({ENDED: ended, "seconds": taken, "why": why})


def end(process: subprocess.Popen) -> None:
    """End a process and all that it started: compilers outlive it otherwise."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def close_last_line(file: Path) -> None:
    """Drop what a killed process had begun to write."""
    text = file.read_text(encoding="utf-8")
    file.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


def stage_list(text: str) -> list[str]:
    """The stages of "a,b"."""
    names = text.split(",")
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no stage {unknown[0]!r}; there are {','.join(STAGES)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--rehearse", action="store_true", help="On the CPU, at toy size.")
    parser.add_argument(
        "--stages", type=stage_list, default=list(STAGES), help="Such as a,b; default: all."
    )
    parser.add_argument("--minutes", type=float, default=15, help="For all stages together.")
    parser.add_argument(
        "--target", default="smollm2", help="Of stage e: a name, or the folder of its pieces."
    )
    parser.add_argument("--talks", type=Path, help="Of stage e: conversations made before.")
    parser.add_argument("--only", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--ends", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no CUDA GPU; --rehearse runs every stage on the CPU at toy size")
    if arguments.only:
        run_stage(arguments)
        return
    try:
        prove(arguments)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
