"""A run in parts, for a Slurm array or an indexed Kubernetes job: each takes its prompts by id.

    eagle-hf data --config X.yaml --only prompts privacy     once
    eagle-hf data --config X.yaml --shard 0/4                four jobs, in any order
    eagle-hf data --config X.yaml --merge                    once

A prompt's shard depends on its id alone, so nobody hands out work and no prompt is asked twice.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

SHARDS = "shards"
# Steps that run in parts. The others take minutes, and must see all prompts.
SHARDED = ("answers", "features")


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a run.

    Args:
        number: of the part, from 0.
        count: of all parts.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(
                f"the shard is {self.number}/{self.count}; its number counts from 0 and is below "
                "the number of shards"
            )

    @classmethod
    def read(cls, text: str) -> "Shard":
        """Read what a command line says.

        Args:
            text: such as "0/4".

        Returns:
            The shard.

        Raises:
            ValueError: it is something else.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal()):
            raise ValueError(f"the shard is {text!r}; write its number and how many, as 0/4")
        return cls(int(number), int(count))

    def holds(self, id: str) -> bool:
        """Whether a prompt belongs to this shard.

        Args:
            id: of the prompt.

        Returns:
            True for exactly one shard of `count`.
        """
        digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.number}-of-{self.count}"

    def folder(self, output_dir: str) -> Path:
        """Where the shard's steps lie."""
        return Path(output_dir, SHARDS, self.name)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
