"""What an export or an engine may get wrong about a head, as heads that are wrong in that way.

A head that is learnt by heart unlearns its conversation under each of them, and a head that an
engine accepts less of than this package is tried under each of them: the one that is accepted as
the engine accepts it says why.

U draft vocabulary.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch

from eagle_hf.head.configuration import Eagle3Config, default_aux_layer_ids
from eagle_hf.head.modeling import Eagle3DraftHead

USUAL_THETA = 10000.0  # RoPE's base where an engine reads none
HALF_DTYPES = (torch.bfloat16, torch.float16)

Change = Callable[[Eagle3DraftHead], None]


@dataclass(frozen=True)
class Misreading:
    """One thing that is read otherwise than it was trained.

    Args:
        reason: What is wrong, as it ends "the engine accepts what it would accept with ...".
        settings: Fields of the head's config that are read otherwise.
        aux_layer_ids: The layers that are read instead, as HF indices; None for the head's own.
        change: What is done to the copied head besides; None for nothing.
    """

    reason: str
    settings: tuple[tuple[str, object], ...] = ()
    aux_layer_ids: tuple[int, ...] | None = None
    change: Change | None = None


def list_misreadings(
    head: Eagle3DraftHead, layer_ids: list[int], num_layers: int
) -> list[Misreading]:
    """Everything about this head that is known to have been read wrong.

    Args:
        head: The head.
        layer_ids: The layers whose inputs it reads, as HF indices.
        num_layers: Layers of the target.

    Returns:
        The misreadings that make another head of this one.
    """
    return [
        *_wrong_layers(layer_ids, num_layers),
        *_wrong_settings(head.config),
        *_wrong_vocabulary(head),
        *_wrong_dtypes(head),
    ]


def _wrong_layers(layer_ids: list[int], num_layers: int) -> list[Misreading]:
    """Other layers than the head was trained on."""
    found = {}
    for shift, words in ((-1, "one lower"), (1, "one higher")):
        shifted = tuple(index + shift for index in layer_ids)
        if min(shifted) >= 0 and max(shifted) < num_layers:
            found[shifted] = f"aux layers {words}, {list(shifted)}"
    default = tuple(default_aux_layer_ids(num_layers))
    if default != tuple(layer_ids):
        found[default] = f"the default aux layers, {list(default)}"
    misreadings = []
    for ids, words in found.items():
        reason = f"{words}, instead of {list(layer_ids)}"
        misreadings.append(Misreading(reason, aux_layer_ids=ids))
    return misreadings


def _wrong_settings(config: Eagle3Config) -> list[Misreading]:
    """Flags and RoPE that a config.json lost, or that an engine does not know."""
    misreadings = []
    for name in ("norm_before_residual", "norm_output"):
        wrong = not getattr(config, name)
        misreadings.append(Misreading(f"{name} read as {wrong}".lower(), ((name, wrong),)))
    if config.fc_norm:
        misreadings.append(Misreading("fc_norm left out", (("fc_norm", False),)))
    rope = dict(config.rope_parameters or {})
    theta = rope.get("rope_theta", USUAL_THETA)
    if theta != USUAL_THETA:
        usual = {**rope, "rope_theta": USUAL_THETA}
        reason = f"a RoPE theta of {USUAL_THETA:g} instead of {theta:g}"
        misreadings.append(Misreading(reason, (("rope_parameters", usual),)))
    if config.window is not None:
        reason = f"no window on the head's cache, which keeps {list(config.window)} tokens here"
        misreadings.append(Misreading(reason, (("window", None),)))
    return misreadings


def _wrong_vocabulary(head: Eagle3DraftHead) -> list[Misreading]:
    """The map of the draft vocabulary, lost or one off."""
    config = head.config
    if config.draft_vocab_size == config.vocab_size:
        return []
    ids = head.draft_to_target
    misreadings = [
        Misreading(
            "no draft vocabulary map (d2t)", change=partial(_set_map, torch.arange(len(ids)))
        )
    ]
    if int(ids[-1]) + 1 < config.vocab_size:
        reason = "a draft vocabulary map (d2t) one too high"
        misreadings.append(Misreading(reason, change=partial(_set_map, ids + 1)))
    return misreadings


def _wrong_dtypes(head: Eagle3DraftHead) -> list[Misreading]:
    """Fewer bits than the head has here."""
    if head.dtype in HALF_DTYPES:
        return []
    misreadings = []
    for dtype in HALF_DTYPES:
        name = str(dtype).removeprefix("torch.")
        reason = f"another dtype, {name} instead of {head.dtype}".replace("torch.", "")
        misreadings.append(Misreading(reason, change=partial(_round_to, dtype)))
    return misreadings


def _set_map(target_ids: torch.Tensor, head: Eagle3DraftHead) -> None:
    """Give the head another draft vocabulary, [U]."""
    head.set_draft_vocabulary(target_ids)


def _round_to(dtype: torch.dtype, head: Eagle3DraftHead) -> None:
    """Round the weights as another dtype does."""
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(weight.to(dtype))


def misread(head: Eagle3DraftHead, misreading: Misreading) -> Eagle3DraftHead:
    """A copy of the head as it would be read."""
    config = deepcopy(head.config)
    for name, value in misreading.settings:
        setattr(config, name, value)
    if misreading.aux_layer_ids is not None:
        config.eagle_hf = {
            **(config.eagle_hf or {}),
            "aux_layer_ids": list(misreading.aux_layer_ids),
        }
    wrong = Eagle3DraftHead(config)
    # fc_norm's weights have no place where it is left out
    wrong.load_state_dict(head.state_dict(), strict=False)
    wrong.to(device=head.device, dtype=head.dtype).eval()
    if misreading.change is not None:
        misreading.change(wrong)
    return wrong
