"""Weights and config of a head compared, before anything that the config announces is allocated."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.opening.tensors import Stored
from eagle_hf.head.vocabulary import draft_to_target_ids, vocabulary_buffers

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MAP = ("d2t", "t2d")

Shapes = dict[str, tuple[int, ...]]


def announced_shapes(
    model_class: Callable[[Eagle3Config], nn.Module], config: Eagle3Config
) -> Shapes:
    """Shapes of the weights that a config announces, by name; nothing is allocated."""
    with torch.device("meta"):
        model = model_class(deepcopy(config))  # a model changes its config
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def choose_tensors(
    stored: dict[str, Stored], announced: Shapes, config: Eagle3Config, source: str | Path
) -> dict[str, Stored]:
    """The stored tensors that the model takes: all are there and have the right shapes.

    Args:
        stored: The tensors under our names.
        announced: The shapes that the config announces.
        config: The head's config.
        source: What error messages name.

    Raises:
        ValueError: A tensor is missing, left over, or of another shape.
    """
    has_whole_vocabulary = config.draft_vocab_size == config.vocab_size
    if has_whole_vocabulary and "lm_head.weight" not in stored:
        raise ValueError(
            f"{source} holds no lm_head.weight: it borrows the target's, which is not at hand "
            "here; write a whole head: "
            f"eagle-hf check {source} --target TARGET --fix NEW_FOLDER"
        )
    if has_whole_vocabulary and _maps_to_itself(stored.get("d2t"), config.vocab_size):
        stored = {name: tensor for name, tensor in stored.items() if name not in MAP}
    _compare_shapes(stored, announced, source)
    return stored


def _maps_to_itself(d2t: Stored | None, vocab_size: int) -> bool:
    """Whether a vocabulary map maps every id of the target to itself."""
    if d2t is None or d2t.shape != (vocab_size,):
        return False
    return not d2t.read().any()


def _compare_shapes(stored: dict[str, Stored], announced: Shapes, source: str | Path) -> None:
    """Refuse weights that are not exactly those announced, and say how they differ."""
    mismatched = []
    for name in sorted(set(stored) & set(announced)):
        shape = stored[name].shape
        if shape != announced[name]:
            mismatched.append(f"{name} is {list(shape)}, announced {list(announced[name])}")
    differences = {
        "missing_keys": sorted(set(announced) - set(stored) - {"t2d"}),  # t2d follows from d2t
        "unexpected_keys": sorted(set(stored) - set(announced)),
        "mismatched_keys": mismatched,
    }
    problems = [f"{kind}: {names}" for kind, names in differences.items() if names]
    if problems:
        raise ValueError(
            f"{source} does not hold the weights its config.json announces "
            f"({'; '.join(problems)!s:.2000}); "
            "a head with random weights would draft garbage, so it is not opened: save or export "
            "it again"
        )


def read_weights(stored: dict[str, Stored], config: Eagle3Config) -> dict[str, torch.Tensor]:
    """Read all tensors.

    Raises:
        ValueError: One has a dtype that weights have not, or the vocabulary map is unusable.
    """
    weights = {name: tensor.read() for name, tensor in stored.items()}
    for name, tensor in weights.items():
        allowed = INTEGERS if name in MAP else FLOATS
        if tensor.dtype not in allowed:
            raise ValueError(
                f"{name} is of {tensor.dtype}; the head is quantised or damaged, give the one it "
                "was made from"
            )
    if "d2t" in weights:
        weights |= _read_map(weights, config.vocab_size)
    return weights


def _read_map(weights: dict[str, torch.Tensor], vocab_size: int) -> dict[str, torch.Tensor]:
    """Both buffers of the vocabulary map, in our dtypes, from d2t."""
    target_ids = draft_to_target_ids(weights["d2t"].long())
    try:
        d2t, t2d = vocabulary_buffers(target_ids, vocab_size)
    except ValueError as error:
        raise ValueError(
            f"d2t is unusable: {error}; d2t holds offsets, target id = draft id + d2t[draft id]"
        ) from error
    if "t2d" in weights and not torch.equal(weights["t2d"].bool(), t2d):
        raise ValueError(
            "t2d marks other tokens than d2t names; one of them is of another head, or d2t holds "
            "ids instead of offsets"
        )
    return {"d2t": d2t, "t2d": t2d}
