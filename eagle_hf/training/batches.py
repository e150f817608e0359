"""Batches of conversations, and what the target makes of them.

B batch, S sequence, H hidden. Rows are padded on the right, or the conversations of a batch lie one after another in a
single row (packing). What the target makes of a token is its three streams `aux_hidden_states` [3H], its final-normed
`hidden_states` [H], the argmax `best` of its next-token distribution and, for losses that need it, `log_normaliser`.
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers.trainer_pt_utils import LengthGroupedSampler

from eagle_hf.data.features import Features
from eagle_hf.head.modeling import conversation_lengths
from eagle_hf.target import next_token_summary, target_states

KNOWN = ("aux_hidden_states", "hidden_states", "best", "log_normaliser")


def compact(row: dict) -> dict:
    """An example of five bytes a token instead of Python's numbers."""
    ids, mask = torch.as_tensor(row["input_ids"]).int(), torch.as_tensor(row["loss_mask"]).bool()
    return {"id": str(row.get("id", "without id")), "input_ids": ids, "loss_mask": mask}


def example_lengths(examples) -> list[int]:
    """Tokens of every example of a list or feature folder; none of what does not know its size."""
    if isinstance(examples, Features):
        return examples.lengths
    return [len(example["input_ids"]) for example in examples] if isinstance(examples, list) else []


def collate(
    examples: list[dict], packing: bool = False, learn_prompts: bool = False
) -> dict[str, torch.Tensor]:
    """input_ids and labels [B, S] (-100 where nothing is learnt), id and index [B], attention_mask [B, S] of padded rows.

    packing: one row [1, S] without padding, and position_ids that start from 0 with every conversation. Examples of a
    feature folder bring what the target makes of them along. learn_prompts: every token is learnt. A conversation's first
    two tokens are never learnt: no slot predicts them.
    """
    ids = [torch.as_tensor(example["input_ids"]).long() for example in examples]
    masks = [torch.as_tensor(example["loss_mask"]).bool() | learn_prompts for example in examples]
    labels = [row.masked_fill(~mask, -100) for row, mask in zip(ids, masks)]
    for row in labels:
        row[:2] = -100
    if not any((row != -100).any() for row in labels):
        raise ValueError(
            f"the loss masks of all {len(examples)} conversations in a batch are zero, so there is nothing to learn; "
            "each needs an assistant turn of at least one token"
        )
    batch = {"input_ids": _joined(ids, packing), "labels": _joined(labels, packing, padding=-100)}
    if packing:
        batch["position_ids"] = _joined([torch.arange(len(row)) for row in ids], packing)
    else:
        batch["attention_mask"] = _joined([torch.ones_like(row) for row in ids], packing)
    for name in KNOWN:
        if name in examples[0]:
            batch[name] = _joined([example[name] for example in examples], packing)
    batch["id"] = [example.get("id", "without id") for example in examples]
    return batch | {"index": torch.tensor([example.get("index", -1) for example in examples])}


def _joined(rows: list[torch.Tensor], packing: bool, padding: float = 0) -> torch.Tensor:
    """One row [1, S, ...], or padded rows [B, S, ...]."""
    return (
        torch.cat(rows)[None]
        if packing
        else pad_sequence(rows, batch_first=True, padding_value=padding)
    )


def separate(batch: dict[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    """The conversations' own parts of a batch, without padding."""
    if "position_ids" in batch:
        return list(batch[name][0].split(conversation_lengths(batch["position_ids"])))
    return [
        row[:length] for row, length in zip(batch[name], batch["attention_mask"].sum(1).tolist())
    ]


class LengthGrouped(LengthGroupedSampler):
    """Conversations of similar length together, in an order that seed and epoch alone decide: a resumed run finds it again."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


class TargetStates:
    """What the target makes of a batch, conversation by conversation, whatever else lies in its row.

    Remembered on the CPU while `gigabytes` last. normaliser: also the log-normalisers, for losses that need them.
    """

    def __init__(
        self,
        target,
        layer_ids: list[int],
        gigabytes: float = 0.0,
        normaliser: bool = False,
        learn_prompts: bool = False,
    ):
        self.target, self.layer_ids, self.normaliser, self.bytes_left = (
            target,
            layer_ids,
            normaliser,
            gigabytes * 1e9,
        )
        self.learn_prompts = learn_prompts
        self._remembered: dict[int, dict[str, torch.Tensor]] = {}
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
                batch = collate(order[start : start + batch_size], learn_prompts=self.learn_prompts)
                self(
                    {
                        name: part.to(self.target.device)
                        for name, part in batch.items()
                        if name != "id"
                    }
                )

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors `KNOWN`, laid out as the batch is; none where it came with them."""
        if KNOWN[0] in batch:
            return {}
        indices = batch["index"].tolist()
        known = [self._remembered.get(index) for index in indices]
        if not all(known):
            known = self._ask(separate(batch, "input_ids"), separate(batch, "labels"))
            for index, states in zip(indices, known):
                self._remember(index, states)
        device, packing = batch["input_ids"].device, "position_ids" in batch
        return {
            name: _joined([states[name].to(device) for states in known], packing)
            for name in known[0]
        }

    @torch.no_grad()
    def _ask(
        self, ids: list[torch.Tensor], labels: list[torch.Tensor]
    ) -> list[dict[str, torch.Tensor]]:
        """Run the target over the conversations; the argmax is taken only where the next token is learnt."""
        told = target_states(self.target, pad_sequence(ids, batch_first=True), self.layer_ids)
        aux, states = (
            tensor.to(ids[0].device) for tensor in told
        )  # a target over several devices answers on its last
        learnt = torch.nn.functional.pad(
            pad_sequence(labels, batch_first=True, padding_value=-100)[:, 1:] != -100, (0, 1)
        )
        columns = {
            "aux_hidden_states": aux,
            "hidden_states": states,
            "best": torch.full_like(learnt, -1, dtype=torch.long),
        }
        columns["best"][learnt], normaliser = next_token_summary(
            self.target, states[learnt], self.normaliser
        )
        if self.normaliser:
            columns["log_normaliser"] = torch.zeros_like(learnt, dtype=torch.float32)
            columns["log_normaliser"][learnt] = normaliser
        return [
            {name: column[row, : len(own)] for name, column in columns.items()}
            for row, own in enumerate(ids)
        ]

    def _remember(self, index: int, states: dict[str, torch.Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in states.values())
        if index < 0 or index in self._remembered:
            return
        if size > self.bytes_left:
            self.bytes_left = 0  # full: what is known stays, nothing more is added
            return
        self._remembered[index] = {name: tensor.cpu().clone() for name, tensor in states.items()}
        self.bytes_left -= size
