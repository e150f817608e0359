"""A fresh head for a target: its draft vocabulary from the responses, its first weights from the target."""

import torch

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.vocabulary import choose_draft_vocabulary, coverage
from eagle_hf.target import aux_layer_ids, target_states, unwrap

NORM_SCALE = 0.35  # of the target's final norm: softer first logits than the target's own


def new_head(target, token_counts: torch.Tensor, draft_vocab_size: int, *, fill_by_rank: bool = False, **config):
    """`(head, share of the counted tokens its vocabulary covers)`; token_counts [V] are the responses' tokens.

    The LM head starts from the target's rows, the final norm from a scaled copy of the target's. The rest is random.
    """
    ids = choose_draft_vocabulary(token_counts, draft_vocab_size, fill_by_rank)
    head = Eagle3DraftHead(Eagle3Config.from_target(target, draft_vocab_size=draft_vocab_size, **config))
    head.set_draft_vocabulary(ids)
    model = unwrap(target)
    with torch.no_grad():
        head.lm_head.weight.copy_(model.get_output_embeddings().weight[ids])
        final_norm = getattr(model.get_decoder(), "norm", None)
        if final_norm is not None:
            head.norm.weight.copy_(NORM_SCALE * final_norm.weight)
    return head, coverage(token_counts, ids)


@torch.no_grad()
def calibrate_fc_norm(head: Eagle3DraftHead, target, input_ids: torch.Tensor) -> None:
    """Start every `fc_norm` at the inverse of its stream's spread per dimension, seen on a sample [B, S].

    A few dimensions of the streams are hundreds of times larger than the rest and would own the first steps.
    """
    aux, _ = target_states(target, input_ids, aux_layer_ids(target, head.config))
    for norm, stream in zip(head.fc_norm, aux.float().chunk(len(head.fc_norm), dim=-1)):
        norm.weight.fill_(1.0)
        spread = norm(stream).square().mean((0, 1)).sqrt()
        norm.weight.copy_(1 / spread.clamp(min=1e-3))
