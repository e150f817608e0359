"""Start an engine's server, and end it again.

Whatever the server prints goes to a file, whose last lines are shown when it ends by itself.
"""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from eagle_hf.hub.gate.client import EngineError
from eagle_hf.hub.gate.commands import HOST, serving_command
from eagle_hf.hub.gate.environment import Environment, convert_to_gguf, last_lines

STARTING_S = 900  # most seconds until a server answers
STOPPING_S = 30
ENDING_S = 2
POLL_S = 0.5


class Server:
    """A server that runs while its block does.

    Args:
        command: The words that start it.
        url: Where it will answer.
        log: File for what it prints.
        variables: Its environment variables; default: this process's.
        starting_s: Most seconds until it answers.
    """

    def __init__(
        self,
        command: Sequence[str],
        url: str,
        log: Path,
        variables: dict[str, str] | None = None,
        starting_s: float = STARTING_S,
    ) -> None:
        self.command = list(command)
        self.url = url
        self.log = log
        self.variables = variables
        self.starting_s = starting_s
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Server":
        with open(self.log, "w") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # what it starts ends with it
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        has_stopped = isinstance(error, EngineError) and self._ends_now()
        self._stop()
        if isinstance(error, EngineError):
            state = "the server has stopped" if has_stopped else "the server was still running"
            raise EngineError(f"{error}\n{state}; {self._last_words()}") from error

    def _wait(self) -> None:
        """Return when the server answers."""
        assert self._process is not None
        until = time.monotonic() + self.starting_s
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise EngineError(
                    f"the server ended with status {self._process.returncode} before it answered: "
                    f"{shlex.join(self.command)}\n{self._last_words()}"
                )
            if _answers(f"{self.url}/health"):
                return
            time.sleep(POLL_S)
        raise EngineError(
            f"the server did not answer in {self.starting_s:.0f} s: {shlex.join(self.command)}\n"
            f"{self._last_words()}"
        )

    def _ends_now(self) -> bool:
        """Whether the server has ended, or does so in a moment: its connections close first."""
        assert self._process is not None
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _stop(self) -> None:
        """End the server and what it has started."""
        process = self._process
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(STOPPING_S)
            except subprocess.TimeoutExpired:
                continue
        process.wait(STOPPING_S)

    def _last_words(self) -> str:
        """The end of its log."""
        return f"the end of {self.log}:\n{last_lines(self.log.read_text(errors='replace'))}"


def _answers(url: str) -> bool:
    """Whether a server is ready."""
    try:
        urlopen(url, timeout=POLL_S * 10).close()
    except HTTPError:
        return False  # it loads its models
    except (URLError, OSError):
        return False
    return True


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def served(
    environment: Environment, target: Path, head: Path, depth: int, dtype: str, work: Path
) -> Generator[str]:
    """Serve a target with a head while the block runs.

    Args:
        environment: The engine's.
        target: Folder of the target.
        head: Folder of the exported head.
        depth: Drafts of a chain.
        dtype: What is computed in.
        work: Folder for GGUF files and logs.

    Yields:
        The server's address.

    Raises:
        EngineError: It does not start, or stops; the end of its log is in the error.
    """
    port = free_port()
    if environment.engine == "llamacpp":
        # the head's file first: a head that cannot be converted costs no target
        served_head = convert_to_gguf(
            environment, head, work / f"{head.name}-{dtype}.gguf", dtype, target
        )
        served_target = convert_to_gguf(environment, target, work / f"target-{dtype}.gguf", dtype)
    else:
        served_head = head
        served_target = target
    command = serving_command(environment, served_target, served_head, depth, dtype, port)
    log = work / f"{environment.engine}-{head.name}.log"
    with Server(command, f"http://{HOST}:{port}", log, environment.variables()) as server:
        yield server.url
