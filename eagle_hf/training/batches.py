"""Batches of conversations, and the target features that the head learns from.

B batch, S sequence, H hidden. A batch is padded on the right, or it is packed: its conversations
lie one after another in a single row.

The target features of a token are its aux hidden states `aux_hidden_states` [3H], its final-normed
`hidden_states` [H], the argmax `best` of the target's next-token distribution and, for losses that
need it, the log-sum-exp `log_normaliser` of that distribution's logits.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import LengthGroupedSampler

from eagle_hf.data.features.dataset import Features
from eagle_hf.head.packing import conversation_lengths
from eagle_hf.target import execution_device, next_token_summary, target_states
from eagle_hf.target.quantised import finish_loading

TARGET_FEATURES = ("aux_hidden_states", "hidden_states", "best", "log_normaliser")


def _length(example: Mapping) -> int:
    """Tokens of an example."""
    return len(example["input_ids"])


def compact(example: Mapping) -> dict:
    """An example of five bytes a token instead of Python's numbers; images stay as they are."""
    small = {
        "id": str(example.get("id", "without id")),
        "input_ids": torch.as_tensor(example["input_ids"]).int(),
        "loss_mask": torch.as_tensor(example["loss_mask"]).bool(),
    }
    if example.get("image_inputs") is not None:
        small["image_inputs"] = example["image_inputs"]
    return small


def example_lengths(examples: Any) -> list[int]:
    """Tokens of every example of a list or feature folder; [] for what does not know its size."""
    if isinstance(examples, Features):
        return examples.lengths
    if isinstance(examples, list):
        return [_length(example) for example in examples]
    return []


def collate(
    examples: Sequence[Mapping[str, Any]], packing: bool = False, learn_prompts: bool = False
) -> dict:
    """Make one batch of tokenised conversations.

    A conversation's first two tokens are never learnt: no slot predicts them.

    Args:
        examples: `input_ids` and `loss_mask` of each conversation; `id` and `index` where they
            have them. Examples of a feature folder bring their target features along.
        packing: one row without padding.
        learn_prompts: every token is learnt, whatever the loss masks say.

    Returns:
        `input_ids` and `labels` [B, S], the labels -100 where nothing is learnt; `attention_mask`
        [B, S], or `position_ids` [1, S] where the batch is packed (B = 1), which start from 0 with
        every conversation; the target features that came along. For each conversation its `id`,
        and its `index`, -1 where it has none. Where one has images, also the `image_inputs` of
        each, None for those without.

    Raises:
        ValueError: no token of any conversation is learnt.
    """
    ids = [torch.as_tensor(example["input_ids"]).long() for example in examples]
    labels = []
    for example, tokens in zip(examples, ids, strict=True):
        is_learnt = torch.as_tensor(example["loss_mask"]).bool() | learn_prompts
        is_learnt[:2] = False
        labels.append(tokens.masked_fill(~is_learnt, -100))
    if not any((tokens != -100).any() for tokens in labels):
        raise ValueError(
            f"the loss masks of all {len(examples)} conversations in a batch are zero, so there is "
            "nothing to learn; each needs an assistant turn of at least one token"
        )

    batch = {
        "input_ids": _join(ids, packing),
        "labels": _join(labels, packing, padding=-100),
    }
    if packing:
        batch["position_ids"] = _join([torch.arange(len(tokens)) for tokens in ids], packing)
    else:
        batch["attention_mask"] = _join([torch.ones_like(tokens) for tokens in ids], packing)
    for name in TARGET_FEATURES:
        if name in examples[0]:
            batch[name] = _join([example[name] for example in examples], packing)
    batch["id"] = [example.get("id", "without id") for example in examples]
    batch["index"] = torch.tensor([example.get("index", -1) for example in examples])
    images = [example.get("image_inputs") for example in examples]
    if any(inputs is not None for inputs in images):
        batch["image_inputs"] = images
    return batch


def _join(parts: list[torch.Tensor], packing: bool, padding: float = 0) -> torch.Tensor:
    """The conversations' parts as one row [1, S, ...], or as padded rows [B, S, ...]."""
    if packing:
        return torch.cat(parts)[None]
    return pad_sequence(parts, batch_first=True, padding_value=padding)


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The same batch with its tensors on a device; names and images stay as they are."""
    moved = {}
    for name, part in batch.items():
        moved[name] = part.to(device) if isinstance(part, torch.Tensor) else part
    return moved


def separate(batch: dict[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    """The conversations' own parts of a batch, without padding."""
    if "position_ids" in batch:
        return list(batch[name][0].split(conversation_lengths(batch["position_ids"])))
    lengths = batch["attention_mask"].sum(1).tolist()
    return [row[:length] for row, length in zip(batch[name], lengths, strict=True)]


class LengthGrouped(LengthGroupedSampler):
    """Conversations of similar length together, in an order that seed and epoch alone decide.

    So a resumed run finds the order again.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch; the dataloader calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


class TargetStates:
    """Runs the target over batches, and remembers the features of conversations on the CPU.

    A conversation's features do not depend on what else lies in its batch.

    Args:
        target: the frozen target.
        layer_ids: the layers whose inputs are the aux hidden states.
        gigabytes: remember features until they take this much memory.
        normaliser: also compute the log-normalisers, for losses that need them.
        learn_prompts: as in `collate`, for the batches of `fill`.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        layer_ids: list[int],
        gigabytes: float = 0.0,
        normaliser: bool = False,
        learn_prompts: bool = False,
    ):
        finish_loading(target)
        self.target = target
        self.layer_ids = layer_ids
        self.normaliser = normaliser
        self.learn_prompts = learn_prompts
        self.bytes_left = gigabytes * 1e9
        self._remembered: dict[int, dict[str, torch.Tensor]] = {}

    def fill(self, examples: Sequence[Mapping[str, Any]], batch_size: int = 8) -> None:
        """Run the target ahead of training, until all conversations are known or memory is full.

        Args:
            examples: as in `collate`, each with its `index`.
            batch_size: conversations of similar length that run together.
        """
        device = execution_device(self.target)
        order = sorted(examples, key=_length)
        for start in tqdm(range(0, len(order), batch_size), desc="target states", unit="batch"):
            if self.bytes_left <= 0:
                continue
            batch = collate(order[start : start + batch_size], learn_prompts=self.learn_prompts)
            self.run_target(on_device(batch, device))

    def run_target(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Find the target features of a batch; the target runs where some are not remembered.

        Args:
            batch: what `collate` makes, on the target's device.

        Returns:
            The tensors `TARGET_FEATURES`, laid out as the batch is. Empty where the batch brings
            them along.
        """
        if TARGET_FEATURES[0] in batch:
            return {}
        indices = batch["index"].tolist()
        known = self._recall(indices)
        if known is None:
            ids = separate(batch, "input_ids")
            known = self._forward(ids, separate(batch, "labels"), batch.get("image_inputs"))
            for index, features in zip(indices, known, strict=True):
                self._remember(index, features)

        device = batch["input_ids"].device
        packing = "position_ids" in batch
        joined = {}
        for name in known[0]:
            parts = [features[name].to(device) for features in known]
            joined[name] = _join(parts, packing)
        return joined

    @torch.no_grad()
    def _forward(
        self,
        ids: list[torch.Tensor],
        labels: list[torch.Tensor],
        images: list[Mapping[str, torch.Tensor] | None] | None,
    ) -> list[dict[str, torch.Tensor]]:
        """The features of each conversation; `best` only where the next token is learnt."""
        # 1) The states of all conversations in one padded batch.
        aux, states = target_states(self.target, ids, self.layer_ids, images)
        # A target over several devices answers on its last.
        aux = aux.to(ids[0].device)  # [B, S, 3H]
        states = states.to(ids[0].device)  # [B, S, H]

        # 2) The LM head is expensive: it runs only where the next token is learnt.
        next_labels = pad_sequence(labels, batch_first=True, padding_value=-100)[:, 1:]
        is_asked = F.pad(next_labels != -100, (0, 1))  # [B, S]
        best = torch.full_like(is_asked, -1, dtype=torch.long)
        best[is_asked], normaliser = next_token_summary(
            self.target, states[is_asked], self.normaliser
        )
        columns = {"aux_hidden_states": aux, "hidden_states": states, "best": best}
        if normaliser is not None:
            log_normaliser = torch.zeros_like(is_asked, dtype=torch.float32)
            log_normaliser[is_asked] = normaliser
            columns["log_normaliser"] = log_normaliser

        # 3) Back to conversations, without the padding.
        conversations = []
        for row, tokens in enumerate(ids):
            features = {name: column[row, : len(tokens)] for name, column in columns.items()}
            conversations.append(features)
        return conversations

    def _recall(self, indices: list[int]) -> list[dict[str, torch.Tensor]] | None:
        """The remembered features of these conversations; None where those of one are missing."""
        recalled = []
        for index in indices:
            if index not in self._remembered:
                return None
            recalled.append(self._remembered[index])
        return recalled

    def _remember(self, index: int, features: dict[str, torch.Tensor]) -> None:
        """Keep a copy on the CPU where the memory still allows it."""
        if index < 0 or index in self._remembered:
            return
        size = sum(tensor.nbytes for tensor in features.values())
        if size > self.bytes_left:
            self.bytes_left = 0  # full: what is known stays, nothing more is added
            return
        self._remembered[index] = {name: tensor.cpu().clone() for name, tensor in features.items()}
        self.bytes_left -= size
