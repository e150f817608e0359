"""What the tests of offline features share: settings, names, and a look at a folder's bytes."""

import torch
from tiny import tiny_target
from transformers import PreTrainedModel

LAYERS = [2, 3, 4]
TEMPLATE = "template"  # stands for a hash
LENGTHS = [5, 17, 9, 30, 3, 12, 30, 8]  # of the examples, 114 tokens together


def shard_name(number: int) -> str:
    return f"features-{number:05d}.safetensors"


def contents(folder):
    """The bytes of every file."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def float32_target(seed: int = 0) -> PreTrainedModel:
    return tiny_target(dtype=torch.float32, seed=seed)


class Interrupted:
    """Examples that fail after so many reads. Planning reads each once, capturing once more."""

    def __init__(self, rows, reads):
        self.rows = rows
        self.reads = reads

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return self.rows[index]
