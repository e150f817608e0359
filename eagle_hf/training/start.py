"""A fresh head for a target: its draft vocabulary from the responses, its first weights from the target."""

from collections.abc import Sequence

import torch

from eagle_hf.data.masking import count_response_tokens
from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.vocabulary import choose_draft_vocabulary, coverage
from eagle_hf.target import aux_layer_ids, target_states, unwrap

NORM_SCALE = 0.35  # of the target's final norm: softer first logits than the target's own
CALIBRATION_ROWS = 8


def new_head(
    target,
    examples: Sequence[dict],
    draft_vocab_size: int | None,
    *,
    fill_by_rank: bool = False,
    **config,
):
    """`(head, share of the response tokens its vocabulary covers)` from tokenised examples (`input_ids`, `loss_mask`).

    draft_vocab_size: the most frequent response tokens; None: the target's whole vocabulary. The LM head starts from the target's rows, the final norm from a scaled copy of the target's, fc_norm where asked
    for from the streams' spread; the rest is random. fill_by_rank: see `choose_draft_vocabulary`; config: see Eagle3Config.
    """
    counts = count_response_tokens(examples, unwrap(target).config.get_text_config().vocab_size)
    ids = (
        torch.arange(len(counts))
        if draft_vocab_size is None
        else choose_draft_vocabulary(counts, draft_vocab_size, fill_by_rank)
    )
    head = Eagle3DraftHead(
        Eagle3Config.from_target(target, draft_vocab_size=draft_vocab_size, **config)
    )
    head.set_draft_vocabulary(ids)
    model = unwrap(target)
    with torch.no_grad():
        head.lm_head.weight.copy_(model.get_output_embeddings().weight[ids])
        final_norm = getattr(model.get_decoder(), "norm", None)
        if final_norm is not None:
            head.norm.weight.copy_(NORM_SCALE * final_norm.weight)
    if head.config.fc_norm:
        calibrate_fc_norm(head, target, examples)
    return head, coverage(counts, ids)


@torch.no_grad()
def calibrate_fc_norm(head: Eagle3DraftHead, target, examples: Sequence[dict]) -> None:
    """Start every `fc_norm` at the inverse of its stream's spread per dimension, seen on the longest examples.

    A few dimensions of the streams are hundreds of times larger than the rest and would own the first steps.
    """
    longest = sorted((example["input_ids"] for example in examples), key=len)[-CALIBRATION_ROWS:]
    input_ids = torch.tensor(
        [ids[: len(longest[0])] for ids in longest], device=unwrap(target).device
    )
    aux, _ = target_states(target, input_ids, aux_layer_ids(target, head.config))
    for norm, stream in zip(
        head.fc_norm, aux.float().to(head.device).chunk(len(head.fc_norm), dim=-1)
    ):
        norm.weight.fill_(1.0)
        spread = norm.float()(stream).square().mean((0, 1)).sqrt()
        norm.weight.copy_(1 / spread.clamp(min=1e-3))
