"""Compile a C++ file of the package once, and keep the library in the cache folder.

A library's name holds a hash of all that decides whether it can be loaded here: the sources, the
releases of torch and of the compiler, and the features of the processor. A machine that shares the
cache folder with another kind of machine gets its own.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from eagle_hf.target.gguf.copies import cache_folder

TORCH = Path(torch.__file__).parent
COMPILERS = ("g++", "clang++", "c++")
PATIENCE = 300  # seconds; a compilation takes five
STABLE_ABI = "0x020b000000000000"  # torch 2.11, the oldest that is supported
ADVICE = "install g++ (on Debian and Ubuntu `apt install g++`) or clang++"


class BuildError(RuntimeError):
    """A library cannot be compiled or kept; says why, and what helps."""


def build_library(source: Path) -> Path:
    """Return the library of a C++ file, which is compiled where there is none yet.

    Several processes may build at once: each writes a file of its own, which then takes the
    library's name.

    Args:
        source: The C++ file. It may include the headers beside it.

    Returns:
        The shared library, in `cache_folder()`.

    Raises:
        BuildError: There is no C++ compiler, it fails, or the cache folder cannot be written.
    """
    compiler = find_compiler()
    command = compile_command(compiler)
    key = library_key(source, command, compiler_version(compiler))
    library = cache_folder() / "kernels" / f"{source.stem}-{key}.so"
    if not library.exists():
        compile_library(command, source, library)
    return library


def find_compiler() -> list[str]:
    """The path of the C++ compiler and its arguments: $CXX, else the first of COMPILERS.

    Raises:
        BuildError: There is none.
    """
    chosen = os.environ.get("CXX", "")
    for name in (chosen,) if chosen else COMPILERS:
        program, *arguments = split_command(name)
        path = shutil.which(program)
        if path is not None:
            return [path, *arguments]
    wanted = f"CXX={chosen}" if chosen else "a C++ compiler"
    raise BuildError(f"{wanted} was not found; {ADVICE}")


def split_command(command: str) -> list[str]:
    """The words of a command such as "ccache g++".

    Raises:
        BuildError: There is none, or a quotation mark is not closed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BuildError(f"CXX={command} cannot be read ({error}); {ADVICE}") from error
    if not words:
        raise BuildError(f"CXX names no compiler; {ADVICE}, or unset CXX")
    return words


def compile_command(compiler: list[str]) -> list[str]:
    """The compiler's command line, without the source and the library.

    No OpenMP: the kernels use torch's own threads, and so its number of them.
    """
    options = ["-std=c++20", "-O3", tuning(), "-ffp-contract=fast", "-fPIC", "-shared"]
    options.append(f"-DTORCH_TARGET_VERSION={STABLE_ABI}")
    return [*compiler, *options, "-isystem", str(TORCH / "include")]


def tuning() -> str:
    """The flag for the instruction sets that torch uses here."""
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return "-march=haswell"  # where ATEN_CPU_CAPABILITY asks for less than the processor has
    # GCC and clang for ARM tune for this machine by another flag.
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def library_key(source: Path, command: list[str], version: str) -> str:
    """A hash of all that a library depends on."""
    headers = sorted(source.parent.glob("*.h"))
    parts = [
        *(file.read_text(encoding="utf-8") for file in [source, *headers]),
        " ".join(command),
        torch.__version__,
        version,
        cpu_features(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def compiler_version(compiler: list[str]) -> str:
    """What a compiler says about itself.

    Raises:
        BuildError: It cannot be run.
    """
    return run_compiler([*compiler, "--version"])


def cpu_features() -> str:
    """The processor's instruction sets, or its name where the system does not list them."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def compile_library(command: list[str], source: Path, library: Path) -> None:
    """Compile a C++ file to a library, which gets its name when all of it is written.

    Raises:
        BuildError: The compiler fails, or the library's folder cannot be written.
    """
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=".building-") as scratch:
            whole = Path(scratch, library.name)
            links = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
            run_compiler([*command, str(source), "-o", str(whole), *links])
            os.replace(whole, library)
    except OSError as error:
        raise BuildError(
            f"{library.parent} cannot be written ({error.strerror}); "
            "set EAGLE_HF_CACHE to a folder that can"
        ) from error


def run_compiler(command: list[str]) -> str:
    """Run a compiler and return what it prints.

    Raises:
        BuildError: It fails, with its first line that names an error.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took more than {PATIENCE} seconds; {ADVICE}") from error
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run ({error.strerror}); {ADVICE}") from error
    if done.returncode == 0:
        return done.stdout
    lines = (done.stderr or done.stdout).strip().splitlines()
    errors = [line for line in lines if "error" in line.lower()]
    reason = (errors or lines or [f"exit code {done.returncode}"])[0]
    raise BuildError(f"{command[0]} failed ({reason}); {ADVICE}")
