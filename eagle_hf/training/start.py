"""A fresh head for a target: vocabulary from the responses, first weights from the target.

B batch, S sequence, H hidden, U draft vocabulary, V target vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from eagle_hf.data.examples.masking import count_response_tokens
from eagle_hf.data.rows import Example
from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.vocabulary import choose_draft_vocabulary, coverage
from eagle_hf.target import (
    aux_layer_ids,
    check_teacher,
    choose_aux_layer_ids,
    evaluating,
    execution_device,
    final_norm_gain,
    logit_scaling,
    position_limit,
    target_states,
    unwrap,
)
from eagle_hf.target.matrices import matrix_rows
from eagle_hf.training.scaled_fc import scale_fc

logger = logging.get_logger(__name__)

NORM_SCALE = 0.35  # of the target's final norm: softer first logits than the target's own
CALIBRATION_EXAMPLES = 8
FC_STARTS = ("random", "scaled")


def new_head(
    target: PreTrainedModel,
    examples: Sequence[Example],
    draft_vocab_size: int | None,
    *,
    fill_by_rank: bool = False,
    fc_start: str = "random",
    **config: Any,
) -> tuple[Eagle3DraftHead, float]:
    """Make a head for `target` whose first weights are better than random ones.

    The LM head starts from the target's, the final norm from the gain of the target's, scaled as
    the target scales its logits, and fc_norm, where asked for, from the spread of the aux hidden
    states. The rest is random; fc need not be.

    Args:
        target: the target that the head will draft for.
        examples: tokenised conversations (`input_ids`, `loss_mask`).
        draft_vocab_size: U, the most frequent response tokens; None: the target's whole vocabulary.
        fill_by_rank: see `choose_draft_vocabulary`.
        fc_start: "random", or "scaled": fc begins as the mean of the aux hidden states, and is
            trained on their dimensions over their spread. The scales are folded into its weights
            wherever it is saved, so that the layout stays EAGLE-3's.
        config: see `Eagle3Config`.

    Returns:
        (the head, the share of the response tokens that its vocabulary covers).

    Raises:
        ValueError: the target is none that a head can learn from, the examples are not tokenised or
            hold too few distinct tokens, or a setting does not exist or contradicts another.
    """
    _check_fc_start(fc_start, config)
    model = unwrap(target)

    # 1) The head's config, and whether the target can teach such a head.
    with evaluating(model):
        head_config = _make_config(target, draft_vocab_size, config)
        check_teacher(target, aux_layer_ids(target, head_config))

    # 2) The draft vocabulary.
    counts = count_response_tokens(examples, model.config.get_text_config().vocab_size)  # [V]
    if draft_vocab_size is None:
        ids = torch.arange(len(counts))
    else:
        ids = choose_draft_vocabulary(counts, draft_vocab_size, fill_by_rank)  # [U]

    # 3) The head, random.
    head = Eagle3DraftHead(head_config)
    head.set_draft_vocabulary(ids)

    # 4) What the target knows already.
    with torch.no_grad():
        width = head.lm_head.in_features
        rows = matrix_rows(model, model.get_output_embeddings(), ids, width)  # [U, H]
        head.lm_head.weight.copy_(rows)
        gain = final_norm_gain(target, head_config.hidden_size)  # [H]
        if gain is not None:
            factor, _ = logit_scaling(target)
            head.norm.weight.copy_(NORM_SCALE * factor * gain)
    if head.config.fc_norm:
        calibrate_fc_norm(head, target, examples)
    if fc_start == "scaled":
        scale_fc(head, _longest_states(head, target, examples))
    return head, coverage(counts, ids)


def _check_fc_start(fc_start: str, settings: dict[str, Any]) -> None:
    """Refuse a start that does not exist, or that another setting does already."""
    if fc_start not in FC_STARTS:
        raise ValueError(f"fc_start is {fc_start!r}; choose one of {', '.join(FC_STARTS)}")
    if fc_start == "scaled" and settings.get("fc_norm"):
        raise ValueError(
            'fc_start is "scaled" and fc_norm is set; both divide the aux hidden states by their '
            "spread, choose one"
        )


def _make_config(
    target: PreTrainedModel, draft_vocab_size: int | None, settings: dict[str, Any]
) -> Eagle3Config:
    """The config of a new head, on layers that it can read, unless others are asked for."""
    config = Eagle3Config.from_target(target, draft_vocab_size=draft_vocab_size, **settings)
    if "aux_layer_ids" in settings.get("eagle_hf", {}):
        return config
    ids = choose_aux_layer_ids(target)
    say = logger.info if ids == config.aux_layer_ids else logger.warning
    say(f"the head reads what enters layers {ids} of {type(unwrap(target)).__name__}")
    config.eagle_hf = {**(config.eagle_hf or {}), "aux_layer_ids": ids}
    return config


@torch.no_grad()
def calibrate_fc_norm(
    head: Eagle3DraftHead, target: PreTrainedModel, examples: Sequence[Example]
) -> None:
    """Start every `fc_norm` at the inverse spread of its aux hidden states, per dimension.

    A few dimensions of the aux hidden states are hundreds of times larger than the rest and would
    own the first steps.

    Args:
        head: its `fc_norm` is overwritten.
        target: it runs once, or once for each example with images.
        examples: the spread is measured on the longest of them.
    """
    # 1) Run the target over the longest examples.
    aux = _longest_states(head, target, examples)  # [B, S, 3H]

    # 2) Each norm divides by the spread of its own third.
    thirds = aux.float().to(head.device).chunk(len(head.fc_norm), dim=-1)  # [B, S, H] each
    for norm, states in zip(head.fc_norm, thirds, strict=True):
        norm.get_parameter("weight").fill_(1.0)
        spread = norm.float()(states).square().mean((0, 1)).sqrt()  # [H]
        norm.get_parameter("weight").copy_(1 / spread.clamp(min=1e-3))


@torch.no_grad()
def _longest_states(
    head: Eagle3DraftHead, target: PreTrainedModel, examples: Sequence[Example]
) -> torch.Tensor:
    """Aux hidden states [B, S, 3H] of the longest examples."""
    longest = sorted(examples, key=_length)[-CALIBRATION_EXAMPLES:]
    return _calibration_states(target, longest, aux_layer_ids(target, head.config))


def _length(example: Example) -> int:
    """Tokens of an example."""
    return len(example["input_ids"])


def _calibration_states(
    target: PreTrainedModel, examples: Sequence[Example], layer_ids: list[int]
) -> torch.Tensor:
    """Aux hidden states [B, S, 3H] of examples from the shortest to the longest.

    All are cut to the shortest. With images they cannot be cut: each is read alone, and B is 1.
    """
    device = execution_device(target)
    if not any("image_inputs" in example for example in examples):
        length = min(_length(examples[0]), position_limit(target))
        cut = [torch.as_tensor(example["input_ids"][:length]).long() for example in examples]
        return target_states(target, torch.stack(cut).to(device), layer_ids)[0]
    states = []
    for example in examples:
        ids = torch.as_tensor(example["input_ids"]).long().to(device)[None]
        states.append(target_states(target, ids, layer_ids, [example.get("image_inputs")])[0])
    return torch.cat(states, dim=1)
