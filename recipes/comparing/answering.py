"""The engine's side of `compare_engines.py`: settings in a file, prompts and answers as JSON lines.

A program of this folder is started with the path of a JSON file:

    target      Folder of the target, in float32.
    gguf        GGUF file that the target was made from, None where there is none.
    head        Folder of the head, None for plain decoding.
    dtype       What the engine computes in, or the format of its weights.
    mode        "eager" or "compiled".
    drafts      What is drafted a round: depth, and for a tree top_k and nodes. None where the
                engine chooses.
    new_tokens  Tokens of each answer at most.
    stop        Token ids that end an answer.
    threads     How many it may use.
    work        Folder for converted models.

It writes a line with its versions once the models are open. Then it answers every line
{"prompt": token ids} with the fields of an `Answer`.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO


@dataclass
class Answer:
    """A prompt's answer.

    Attributes:
        text: Token ids, or the text of an engine that names no ids.
        tokens: How many are new.
        decode_seconds: From the first of them to the last.
        seconds: Of the whole call.
        accepted: Drafts that were accepted, None in plain decoding.
    """

    text: list[int] | str
    tokens: int
    decode_seconds: float
    seconds: float
    accepted: int | None


AnswerPrompt = Callable[[list[int]], Answer]


def serve(open_engine: Callable[[dict[str, Any]], AnswerPrompt], packages: tuple[str, ...]) -> None:
    """Open an engine and answer prompts until there are no more.

    Args:
        open_engine: Takes the settings, and returns what answers a prompt.
        packages: Whose versions belong to the result.
    """
    replies = take_stdout()
    settings = json.loads(Path(sys.argv[1]).read_text())
    answer_prompt = open_engine(settings)
    versions = {package: metadata.version(package) for package in packages}
    write_line(replies, {"versions": versions})
    for line in sys.stdin:
        answer = answer_prompt(json.loads(line)["prompt"])
        write_line(replies, asdict(answer))


def take_stdout() -> TextIO:
    """Standard output for replies alone: what else is printed, by C code too, goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def write_line(replies: TextIO, reply: dict[str, Any]) -> None:
    """Write one reply, at once."""
    replies.write(json.dumps(reply) + "\n")
    replies.flush()
