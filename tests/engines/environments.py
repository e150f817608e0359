"""The engines' environments: each a virtual environment under build/engines, made from a list of pinned versions.

    python tests/engines/environments.py            make all that are missing or out of date
    python tests/engines/environments.py vllm       one of them

The lists are complete and installed without following requirements, which would pull builds of torch for GPUs. They were
made on Linux (x86-64) with Python 3.11. An environment that cannot be made is no error: its tests are skipped, and say why.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "engines"
ENGINES = ("vllm", "llamacpp", "sglang", "openvino")


def program(engine: str, name: str = "python") -> Path:
    """A program of an engine's environment."""
    return FOLDER / engine / "bin" / name


def wanted(engine: str) -> str:
    """What changes when the environment must be made anew: the lists and the Python."""
    listed = (HERE / "requirements" / f"{engine}.txt").read_text()
    included = re.findall(r"^-r (\S+)", listed, re.MULTILINE)
    lists = [listed, *((HERE / "requirements" / name).read_text() for name in included)]
    return hashlib.sha256("\n".join([sys.version, *lists]).encode()).hexdigest()


def missing(engine: str) -> str | None:
    """Why an engine cannot be run here, None where it can."""
    if made(engine):
        return None
    log = FOLDER / f"{engine}.log"
    errors = (
        [line for line in log.read_text().splitlines() if line.startswith("ERROR")]
        if log.is_file()
        else []
    )
    return f"no environment for {engine}: {errors[-1] if errors else 'run make engines'}"


def made(engine: str) -> bool:
    """Whether the environment is there and holds what the lists say."""
    stamp = FOLDER / engine / "made"
    return stamp.is_file() and stamp.read_text() == wanted(engine)


def make(engine: str) -> None:
    """Make an environment unless it is there; what pip said is in build/engines/ENGINE.log."""
    if made(engine):
        return
    folder, requirements = FOLDER / engine, HERE / "requirements" / f"{engine}.txt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / f"{engine}.log", "w") as log:
        steps = [
            [sys.executable, "-m", "venv", folder],
            [program(engine), "-m", "pip", "install", "--no-deps", "-r", requirements],
        ]
        if all(
            subprocess.run(step, stdout=log, stderr=subprocess.STDOUT).returncode == 0
            for step in steps
        ):
            (folder / "made").write_text(wanted(engine))


def main(engines: list[str]) -> None:
    for engine in engines or ENGINES:
        if engine not in ENGINES:
            raise SystemExit(f"no engine is called {engine!r}; known are {', '.join(ENGINES)}")
        make(engine)
        print(f"{engine}: {missing(engine) or 'ready'}")


if __name__ == "__main__":
    main(sys.argv[1:])
