"""Engines in processes of their own, as compare_engines.py asks them."""

import json
import os
import select
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from eagle_hf.hub import engine_path

OPENING_S = 1800  # converting and compiling included
ANSWERING_S = 600


class EngineFailure(Exception):
    """An engine that cannot be opened, or that ends or hangs."""


class Worker:
    """An engine in a process of its own, opened once.

    Args:
        command: Of the process.
        log: Where its other output goes.
        threads: That it may use.

    Raises:
        EngineFailure: It cannot be opened.
    """

    def __init__(self, command: list[str], log: Path, threads: int):
        self._log = log
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": engine_path(),
        }
        try:
            with log.open("w") as stderr:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                )
        except OSError as error:
            raise EngineFailure(
                f"{command[0]} cannot be started; run python tests/engines/environments.py, or "
                "name the folder with --environments"
            ) from error
        try:
            self.versions: dict[str, str] = self._read(OPENING_S)["versions"]
        except EngineFailure:
            self.close()
            raise

    def ask(self, prompt: list[int]) -> dict[str, Any]:
        """The answer to a prompt.

        Raises:
            EngineFailure: There is none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"prompt": prompt}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EngineFailure(self._last_words()) from error
        return self._read(ANSWERING_S)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self, timeout: int) -> dict[str, Any]:
        """The next reply."""
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], timeout)
        if not ready:
            raise EngineFailure(f"no answer within {timeout} s; see {self._log}")
        line = stdout.readline()
        if not line:
            raise EngineFailure(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        """The last error in the log, or its last line."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line]
        errors = [line for line in lines if "Error" in line]
        found = errors or lines or ["it ended without a word"]
        return textwrap.shorten(found[-1], 200)
