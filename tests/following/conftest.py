"""A tiny service: a target, a head for it, and the log of its answers."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import TreeConfig
from eagle_hf.following import FollowSettings, follow
from eagle_hf.following.pool import Pool
from eagle_hf.following.versions import Versions

PROMPT = 5  # tokens
ANSWER = 10  # tokens


@dataclass
class Service:
    """A folder with a target, a head, a log and an output folder.

    Attributes:
        folder: of all of them.
        rows: what the target has answered, one row a request.
        said: what the calls printed.
    """

    folder: Path
    rows: list[dict]
    said: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def versions(self) -> Versions:
        return Versions(self.out)

    def write(self, begin: int, end: int, name: str = "a.jsonl") -> None:
        """Append requests to a file of the log."""
        self.log.mkdir(exist_ok=True)
        with (self.log / name).open("a") as file:
            for row in self.rows[begin:end]:
                file.write(json.dumps(row) + "\n")

    def settings(self, **changes) -> FollowSettings:
        """Settings with which a cycle takes a second or two."""
        values = dict(
            target=str(self.folder / "target"),
            head=str(self.folder / "head"),
            log=self.log,
            out=self.out,
            epochs=4,
            learning_rate=2e-2,
            batch_size=16,
            min_new=60,
            held_out=0.3,
            most_held_out=20,
            dtype="float32",
        )
        return FollowSettings(**(values | changes))

    def follow(self, **changes) -> str:
        """A call; what it said."""
        self.said.clear()
        follow(self.settings(**changes), self.said.append)
        return "\n".join(self.said)

    def pool(self) -> Pool:
        return Pool(self.out)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A saved target and head, and 200 greedy answers by token."""
    folder = tmp_path_factory.mktemp("served")
    target = tiny_target(dtype=torch.float32, initializer_range=0.1)  # repeats itself
    target.save_pretrained(folder / "target")
    word_tokenizer().save_pretrained(folder / "target")
    head = tiny_head(target)
    head.tree = TreeConfig("chain", depth=3)
    head.to(torch.bfloat16).save_pretrained(folder / "head")
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, 31, (200, PROMPT), generator=generator)
    output = target.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=ANSWER,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    rows = []
    for number, ids in enumerate(output.tolist()):
        row = {"id": f"r{number}", "prompt_token_ids": ids[:PROMPT], "token_ids": ids[PROMPT:]}
        rows.append(row | {"finish_reason": "length"})
    return folder, rows


@pytest.fixture
def service(served, tmp_path):
    folder, rows = served
    for name in ("target", "head"):
        (tmp_path / name).symlink_to(folder / name)
    return Service(tmp_path, list(rows))
