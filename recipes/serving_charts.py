"""Speed of real servers, plain and with the head, at rising concurrency: data for charts.

Each engine's server is started in its own environment, first plain and then with the head, one at a
time. `eagle-hf bench-serving` asks all of them the same prompts, and keeps what it measures in one
folder. Both engines draft a chain, and compute in the same dtype.

A server that is missing or fails is named at the end, and the others go on; what it printed is in
OUTPUT/logs. Runs that were measured are not measured again, so an interrupted recipe goes on.

Hardware: any CPU, with nothing else running. Disk: 6 GB for the engines' environments (Linux
          x86-64), and 2 GB for converted models while it runs.
Duration: for SmolLM2-135M on 2 CPU cores about an hour; less with --prompts 6 --new_tokens 64.
Command:  python tests/engines/environments.py llamacpp vllm
          python recipes/serving_charts.py --target smollm2 \\
              --head model_cards/smollm2-135m-instruct-eagle3 --output_dir outputs/serving-charts
          eagle-hf report outputs/serving-charts --out report.html
Expected: the table on the screen and in OUTPUT/table.md, its numbers in OUTPUT/serving.json; a line
          for each server and concurrency in OUTPUT/metrics.json.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from trl import TrlParser

from eagle_hf.data import write_run
from eagle_hf.evaluation import open_target
from eagle_hf.hub import engine_path

DRIVERS = Path(__file__).parent / "comparing"
ENGINES = ("vllm", "llamacpp")
NAMES = {"vllm": "vLLM", "llamacpp": "llama.cpp"}
DTYPES = ("float32", "bfloat16", "float16")
OPENING_S = 1800  # compiling and converting included
CONTEXT = 2048  # tokens of prompt and answer


@dataclass
class ChartArguments:
    """Which engines, at which concurrency, on which prompts."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    head: str = field(metadata={"help": "Folder of the draft head."})
    output_dir: str = field(metadata={"help": "Folder for results and logs."})
    engines: list[str] = field(
        default_factory=lambda: list(ENGINES), metadata={"help": f"Of {', '.join(ENGINES)}."}
    )
    environments: str = field(
        default="build/engines",
        metadata={"help": "Folder with a virtual environment for each engine."},
    )
    concurrency: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Requests in flight."}
    )
    categories: list[str] = field(
        default_factory=lambda: ["chat", "code", "math"],
        metadata={"help": "Bundled categories or .jsonl files."},
    )
    prompts: int = field(default=8, metadata={"help": "Prompts of each category."})
    by_category: bool = field(
        default=True,
        metadata={"help": "Also measure each category by itself, at the least concurrency."},
    )
    new_tokens: int = field(default=128, metadata={"help": "Tokens of each answer at most."})
    chain: int = field(default=3, metadata={"help": "Drafts a round."})
    dtype: str = field(default="float32", metadata={"help": f"Of {', '.join(DTYPES)}."})
    threads: int = field(default=2, metadata={"help": "Threads of every server."})

    def __post_init__(self) -> None:
        for engine in self.engines:
            if engine not in ENGINES:
                raise ValueError(f"engines has {engine!r}; take of {', '.join(ENGINES)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; take of {', '.join(DTYPES)}")


class ServerFailure(Exception):
    """A server that does not come up, or that cannot be measured."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def server_command(
    engine: str, head: str | None, target: Path, port: int, arguments: ChartArguments
) -> list[str]:
    """What starts an engine's server."""
    python = str(Path(arguments.environments).absolute() / engine / "bin" / "python")
    slots = max(arguments.concurrency)
    if engine == "llamacpp":
        settings = {
            "target": str(target),
            "head": head,
            "chain": arguments.chain,
            "dtype": arguments.dtype,
            "threads": arguments.threads,
            "slots": slots,
            "port": port,
            "work": str(target.parent),
        }
        file = target.parent / f"llamacpp-{port}.json"
        file.write_text(json.dumps(settings))
        return [python, str(DRIVERS / "serve_llamacpp.py"), str(file)]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(target)]
    command += ["--served-model-name", target.name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", arguments.dtype, "--max-model-len", str(CONTEXT)]
    command += ["--max-num-seqs", str(slots)]
    if head is not None:
        drafts = {"method": "eagle3", "model": head, "num_speculative_tokens": arguments.chain}
        command += ["--speculative-config", json.dumps(drafts)]
        # acceptance in every answer, so that each category has its own
        command += ["--per-request-spec-decode-metrics", "summary"]
    return command


def server_environment(threads: int) -> dict[str, str]:
    """The environment variables of a server: offline, and all threads for the model.

    By itself vLLM leaves one core to the process that answers over HTTP.
    """
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": engine_path(),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_NO_USAGE_STATS": "1",
    }


@contextmanager
def running(command: list[str], port: int, log: Path, threads: int) -> Generator[str]:
    """The address of a server that runs inside the block.

    Raises:
        ServerFailure: it cannot be started, or ends before it answers.
    """
    with log.open("w") as output:
        try:
            server = subprocess.Popen(
                command,
                env=server_environment(threads),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that the processes it starts end with it
            )
        except OSError as error:
            raise ServerFailure(
                f"{command[0]} cannot be started; run python tests/engines/environments.py, or "
                "name the folder with --environments"
            ) from error
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(server, url, log)
            yield url
        finally:
            with suppress(ProcessLookupError):  # it has ended, and all it had started
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(server: subprocess.Popen, url: str, log: Path) -> None:
    """Return when the server answers; ServerFailure if it ends before."""
    until = time.monotonic() + OPENING_S
    while time.monotonic() < until:
        if server.poll() is not None:
            raise ServerFailure(f"it ended with status {server.returncode}; see {log}")
        try:
            urlopen(f"{url}/health", timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(1)
    raise ServerFailure(f"it did not answer within {OPENING_S} s; see {log}")


def measure(label: str, url: str, arguments: ChartArguments) -> None:
    """Ask a server; ServerFailure where `eagle-hf bench-serving` refuses it."""
    command = ["bench-serving", "--server", f"{label}={url}", "--out", arguments.output_dir]
    command += ["--categories", *arguments.categories]
    command += ["--per-category", str(arguments.prompts)]
    command += ["--max-new-tokens", str(arguments.new_tokens)]
    loads = [["--concurrency", *map(str, arguments.concurrency)]]
    if arguments.by_category:
        loads.append(["--concurrency", str(min(arguments.concurrency)), "--each-category"])
    for load in loads:
        done = subprocess.run([sys.executable, "-m", "eagle_hf.cli", *command, *load])
        if done.returncode != 0:
            raise ServerFailure(f"eagle-hf bench-serving ended with status {done.returncode}")


def measure_all(target: Path, arguments: ChartArguments) -> dict[str, str]:
    """Measure every engine, plain and with the head; why servers failed, by label."""
    logs = Path(arguments.output_dir) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    failures = {}
    for engine in arguments.engines:
        heads = {"plain": None, "with head": str(Path(arguments.head).resolve())}
        for name, head in heads.items():
            label = f"{NAMES[engine]} {name}"
            port = free_port()
            command = server_command(engine, head, target, port, arguments)
            log = logs / f"{label.replace(' ', '-')}.log"
            try:
                with running(command, port, log, arguments.threads) as url:
                    measure(label, url, arguments)
            except ServerFailure as failure:
                failures[label] = str(failure)
                print(f"{label}: {failure}", flush=True)
    return failures


def short_rows(output: Path) -> list[dict[str, Any]]:
    """What the charts need of every run over all categories."""
    file = output / "serving.json"
    if not file.exists():
        return []
    rows = []
    for run in json.loads(file.read_text())["runs"]:
        if run["category"] != "all":
            continue
        row = {"label": run["label"], "concurrency": run["arrival"]["concurrency"]}
        row["tpot_ms"] = run["tpot_ms"] and run["tpot_ms"]["median"]
        row["output_tokens_s"] = run["output_tokens_s"]
        row["tau"] = run["acceptance"] and run["acceptance"]["tau"]
        rows.append(row)
    return rows


def end(*_: object) -> None:
    """End as Ctrl-C does: the server that runs is ended too, and temporary files go."""
    raise KeyboardInterrupt


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    (arguments,) = TrlParser((ChartArguments,)).parse_args_and_config()
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.resolve(), prefix="models-") as folder:
        saved = Path(folder) / "target"
        target, tokenizer = open_target(arguments.target, dtype=arguments.dtype)
        target.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        del target  # its memory is the servers' from here on
        failures = measure_all(saved, arguments)
    metrics = {"runs": short_rows(output), "failures": failures}
    write_run(output, asdict(arguments), metrics)


if __name__ == "__main__":
    main()
