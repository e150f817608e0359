"""What workers of a test cluster import: tiny targets, opened by path."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import torch
from tiny import tiny_target, word_tokenizer

from eagle_hf.data import TargetAnswerer
from eagle_hf.target import load_target

SLOW_S = 0.03  # for each turn, so that no worker is done before another has begun


def save_tiny(folder: Path) -> None:
    """Save a tiny target with its tokenizer."""
    tiny_target(dtype=torch.float32).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)


def many_prompts(count: int) -> list[dict]:
    """Different prompts of two turns."""
    prompts = []
    for number in range(count):
        first = f"w{number % 20 + 5} w{number % 13 + 6}"
        turns = [first, f"w{number % 7 + 7} w{number % 11 + 5}"]
        prompts.append({"id": f"p{number}", "turns": turns, "category": "other", "source": "test"})
    return prompts


class OpenTiny:
    """Opens an answerer over a saved tiny target.

    Args:
        folder: of the target.
        log: gets a line for every turn that is computed: the process, the prompt, the turn.
    """

    def __init__(self, folder: Path, log: Path | None = None):
        self.folder = folder
        self.log = log

    def __call__(self) -> "LoggedAnswerer":
        target, tokenizer = load_target(self.folder, dtype="float32")
        answerer = TargetAnswerer(target, tokenizer, max_new_tokens=16, batch_size=4)
        return LoggedAnswerer(answerer, self.log)


class LoggedAnswerer:
    """An `Answerer` that logs what it computes."""

    def __init__(self, answerer: TargetAnswerer, log: Path | None):
        self._answerer = answerer
        self._log = log

    @property
    def model(self) -> str:
        """As the answerer's."""
        return self._answerer.model

    async def answer(self, conversations: Iterable) -> AsyncGenerator:
        """As the answerer's."""
        async for outcome in self._answerer.answer(conversations):
            await asyncio.sleep(SLOW_S)
            if self._log is not None:
                with self._log.open("a") as file:
                    file.write(f"{os.getpid()} {outcome.id} {outcome.turn}\n")
            yield outcome


def read_log(path: Path) -> list[tuple[str, tuple[str, int]]]:
    """(process, (prompt, turn)) of everything that was computed."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        process, name, turn = line.split()
        found.append((process, (name, int(turn))))
    return found
