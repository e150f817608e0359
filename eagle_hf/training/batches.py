"""Batches of conversations, and what the target makes of them.

B batch, S sequence, H hidden. Rows are padded on the right.
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from eagle_hf.target import target_states
from eagle_hf.training.loss import best_tokens


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Right-padded input_ids and attention_mask [B, S], labels [B, S] (-100 where nothing is learnt), index [B].

    A row's first two tokens are never learnt: no slot predicts them.
    """
    ids = [torch.as_tensor(example["input_ids"]) for example in examples]
    masks = [torch.as_tensor(example["loss_mask"]).bool() for example in examples]
    labels = [row.masked_fill(~mask, -100) for row, mask in zip(ids, masks)]
    for row in labels:
        row[:2] = -100
    if not any((row != -100).any() for row in labels):
        raise ValueError(
            f"the loss masks of all {len(examples)} conversations in a batch are zero, so there is nothing to learn; "
            "each needs an assistant turn of at least one token"
        )
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "index": torch.tensor([example.get("index", -1) for example in examples]),
    }


class TargetStates:
    """What the target makes of a batch: (aux [B, S, 3H], final-normed states [B, S, H], its argmax [B, S]).

    Remembered per conversation, on the CPU, while `gigabytes` last.
    """

    def __init__(self, target, layer_ids: list[int], gigabytes: float):
        self.target, self.layer_ids, self.bytes_left = target, layer_ids, gigabytes * 1e9
        self._remembered: dict[int, tuple[torch.Tensor, ...]] = {}
        self._indices = 0

    def new_index(self) -> int:
        """A name for one more conversation."""
        self._indices += 1
        return self._indices - 1

    def fill(self, examples: list[dict], batch_size: int = 8) -> None:
        """Read the conversations ahead of training, the long ones together, until all are known or memory is full."""
        order = sorted(examples, key=lambda example: len(example["input_ids"]))
        for start in tqdm(range(0, len(order), batch_size), desc="target states", unit="batch"):
            if self.bytes_left > 0:
                self({name: tensor.to(self.target.device) for name, tensor in collate(order[start : start + batch_size]).items()})

    def __call__(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        input_ids, indices = batch["input_ids"], batch["index"].tolist()
        if all(index in self._remembered for index in indices):
            parts = zip(*(self._remembered[index] for index in indices))
            return tuple(pad_sequence(list(rows), batch_first=True).to(input_ids.device) for rows in parts)
        aux, states = target_states(self.target, input_ids, self.layer_ids)
        known = aux, states, best_tokens(self.target, states, batch["labels"])
        for row, index in enumerate(indices):
            length = int(batch["attention_mask"][row].sum())
            self._remember(index, [tensor[row, :length] for tensor in known])
        return known

    def _remember(self, index: int, tensors: list[torch.Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        if index < 0 or index in self._remembered:
            return
        if size > self.bytes_left:
            self.bytes_left = 0  # full: what is known stays, nothing more is added
            return
        self._remembered[index] = tuple(tensor.cpu().clone() for tensor in tensors)
        self.bytes_left -= size
