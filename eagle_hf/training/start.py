"""A fresh head for a target: vocabulary from the responses, first weights from the target.

B batch, S sequence, H hidden, U draft vocabulary, V target vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from eagle_hf.data.masking import count_response_tokens
from eagle_hf.data.rows import Example
from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.vocabulary import choose_draft_vocabulary, coverage
from eagle_hf.target import aux_layer_ids, target_states, unwrap

NORM_SCALE = 0.35  # of the target's final norm: softer first logits than the target's own
CALIBRATION_EXAMPLES = 8


def new_head(
    target: PreTrainedModel,
    examples: Sequence[Example],
    draft_vocab_size: int | None,
    *,
    fill_by_rank: bool = False,
    **config: Any,
) -> tuple[Eagle3DraftHead, float]:
    """Make a head for `target` whose first weights are better than random ones.

    The LM head starts from the target's, the final norm from a scaled copy of the target's, and
    fc_norm, where asked for, from the spread of the aux hidden states. The rest is random.

    Args:
        target: the target that the head will draft for.
        examples: tokenised conversations (`input_ids`, `loss_mask`).
        draft_vocab_size: U, the most frequent response tokens; None: the target's whole vocabulary.
        fill_by_rank: see `choose_draft_vocabulary`.
        config: see `Eagle3Config`.

    Returns:
        (the head, the share of the response tokens that its vocabulary covers).

    Raises:
        ValueError: the examples hold too few distinct tokens, or a setting does not exist.
    """
    model = unwrap(target)

    # 1) The draft vocabulary.
    counts = count_response_tokens(examples, model.config.get_text_config().vocab_size)  # [V]
    if draft_vocab_size is None:
        ids = torch.arange(len(counts))
    else:
        ids = choose_draft_vocabulary(counts, draft_vocab_size, fill_by_rank)  # [U]

    # 2) The head, random.
    head = Eagle3DraftHead(
        Eagle3Config.from_target(target, draft_vocab_size=draft_vocab_size, **config)
    )
    head.set_draft_vocabulary(ids)

    # 3) What the target knows already.
    with torch.no_grad():
        head.lm_head.weight.copy_(model.get_output_embeddings().weight[ids])  # [U, H]
        final_norm = getattr(model.get_decoder(), "norm", None)
        if final_norm is not None:
            head.norm.weight.copy_(NORM_SCALE * final_norm.weight)
    if head.config.fc_norm:
        calibrate_fc_norm(head, target, examples)
    return head, coverage(counts, ids)


@torch.no_grad()
def calibrate_fc_norm(
    head: Eagle3DraftHead, target: PreTrainedModel, examples: Sequence[Example]
) -> None:
    """Start every `fc_norm` at the inverse spread of its aux hidden states, per dimension.

    A few dimensions of the aux hidden states are hundreds of times larger than the rest and would
    own the first steps.

    Args:
        head: its `fc_norm` is overwritten.
        target: it runs once.
        examples: the spread is measured on the longest of them.
    """
    # 1) Run the target over the longest examples, all cut to the shortest of these.
    all_ids = [example["input_ids"] for example in examples]
    longest = sorted(all_ids, key=len)[-CALIBRATION_EXAMPLES:]
    length = len(longest[0])
    input_ids = torch.tensor([ids[:length] for ids in longest], device=unwrap(target).device)
    aux, _ = target_states(target, input_ids, aux_layer_ids(target, head.config))  # [B, S, 3H]

    # 2) Each norm divides by the spread of its own third.
    thirds = aux.float().to(head.device).chunk(len(head.fc_norm), dim=-1)  # [B, S, H] each
    for norm, states in zip(head.fc_norm, thirds, strict=True):
        norm.get_parameter("weight").fill_(1.0)
        spread = norm.float()(states).square().mean((0, 1)).sqrt()  # [H]
        norm.get_parameter("weight").copy_(1 / spread.clamp(min=1e-3))
