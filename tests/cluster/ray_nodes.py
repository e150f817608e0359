"""A Ray cluster on this machine, each node in processes of its own that can be killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).parents[2]
STARTS_S = 240
STORE_BYTES = 100 * 2**20  # of the object store of a node


class RayNodes:
    """A head and as many other nodes as are asked for, of one CPU each; use it as a block.

    Attributes:
        executor: how the cluster is called: ray://host:port.
        address: of the head, for processes on this machine.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
        self._port = free_port()
        self._client_port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.executor = f"ray://127.0.0.1:{self._client_port}"
        self._nodes: list[subprocess.Popen] = []

    def __enter__(self) -> "RayNodes":
        self._start(
            "--head",
            f"--port={self._port}",
            f"--ray-client-server-port={self._client_port}",
            "--include-dashboard=false",
            f"--temp-dir={self._folder}",
        )
        wait_for_port(self._port)
        wait_for_port(self._client_port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in reversed(self._nodes):
            self.kill(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self) -> subprocess.Popen:
        """Start one more node."""
        return self._start(f"--address={self.address}")

    def log(self) -> str:
        """What the nodes have printed."""
        return Path(self._folder, "nodes.log").read_text(errors="replace")

    @property
    def last(self) -> subprocess.Popen:
        """The node that was started last."""
        return self._nodes[-1]

    def kill(self, node: subprocess.Popen) -> None:
        """Kill a node and its workers at once, as a power cut does."""
        try:
            processes = psutil.Process(node.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            processes = []
        node.send_signal(signal.SIGKILL)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def _start(self, *flags: str) -> subprocess.Popen:
        """Start a node that ends with its process."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *flags]
        command += ["--num-cpus=1", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
        with Path(self._folder, "nodes.log").open("ab") as log:
            node = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
        self._nodes.append(node)
        return node


def environment() -> dict[str, str]:
    """What nodes and drivers need: this checkout, the tests' own modules, Ray without tokens."""
    paths = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "RAY_AUTH_MODE": "disabled",
        # Workers of a killed driver end at once, and do not wait for it to come back.
        "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port: int) -> None:
    """Wait until somebody listens at a port."""
    deadline = time.monotonic() + STARTS_S
    while time.monotonic() < deadline:
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nobody listens at port {port} after {STARTS_S} s")
