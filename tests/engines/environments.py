"""The engines' environments: virtual environments under build/engines, from pinned versions.

    python tests/engines/environments.py            make all that are missing or out of date
    python tests/engines/environments.py vllm       one of them

The lists are complete, and pip installs them without following requirements, which would pull
builds of torch for GPUs. They were made on Linux (x86-64) with Python 3.11. An environment that
cannot be made is no error: its tests are skipped, and say why.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "engines"
ENGINES = ("vllm", "llamacpp", "sglang", "openvino", "transformers")


def program(engine: str, name: str = "python") -> Path:
    """A program of an engine's environment."""
    return FOLDER / engine / "bin" / name


def wanted(engine: str) -> str:
    """A hash of the lists and of the Python: when it changes, the environment is made anew."""
    requirements = HERE / "requirements"
    listed = (requirements / f"{engine}.txt").read_text()
    parts = [sys.version, listed]
    for included in re.findall(r"^-r (\S+)", listed, re.MULTILINE):
        parts.append((requirements / included).read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def missing(engine: str) -> str | None:
    """Why an engine cannot be run here, None where it can."""
    if made(engine):
        return None
    return f"no environment for {engine}: {last_error(engine) or 'run make engines'}"


def last_error(engine: str) -> str | None:
    """The last error that pip wrote into an engine's log."""
    log = FOLDER / f"{engine}.log"
    if not log.is_file():
        return None
    errors = [line for line in log.read_text().splitlines() if line.startswith("ERROR")]
    return errors[-1] if errors else None


def made(engine: str) -> bool:
    """Whether the environment is there and holds what the lists say."""
    stamp = FOLDER / engine / "made"
    return stamp.is_file() and stamp.read_text() == wanted(engine)


def make(engine: str) -> None:
    """Make an environment unless it is there. pip writes to build/engines/ENGINE.log."""
    if made(engine):
        return
    folder = FOLDER / engine
    requirements = HERE / "requirements" / f"{engine}.txt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    steps = [
        [sys.executable, "-m", "venv", folder],
        [program(engine), "-m", "pip", "install", "--no-deps", "-r", requirements],
    ]
    with open(FOLDER / f"{engine}.log", "w") as log:
        for step in steps:
            if subprocess.run(step, stdout=log, stderr=subprocess.STDOUT).returncode != 0:
                return
    (folder / "made").write_text(wanted(engine))


def main(engines: list[str]) -> None:
    for engine in engines or ENGINES:
        if engine not in ENGINES:
            raise SystemExit(f"no engine is called {engine!r}; known are {', '.join(ENGINES)}")
        make(engine)
        print(f"{engine}: {missing(engine) or 'ready'}")


if __name__ == "__main__":
    main(sys.argv[1:])
